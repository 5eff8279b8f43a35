"""A neural network from scratch: what PyTorch and TensorFlow do underneath, in one file.

    python -m mnist_cli.scratch.plain

trains a network to read handwritten digits, and says what it does. Read from the top: the idea, the
layers, the loss, the update, and at the end the training itself, ten lines.

A network is a chain of layers. Each turns numbers x into numbers y; the first x are the pixels of
images, the last y are ten numbers per image, a score for each digit. One more number, the *loss*,
says how wrong the scores are. To learn is to change the weights inside the layers a little, over
and over, so that the loss falls. By how much must each weight change? That is its *gradient*: the
slope dL/dw, by how much the loss L rises when w alone rises a little.

The chain rule gives all slopes in one pass from the end to the beginning. If a layer knows dL/dy,
the slopes for its outputs, it can tell dL/dx, those for its inputs, and these are the outputs of
the layer before:

    dL/dx = dL/dy * dy/dx        for every path from x to L; where paths meet, they add up.

So each layer has two methods. ``forward`` computes y from x, and remembers what it will need.
``backward`` computes dL/dx from dL/dy, and the slopes for its own weights. Below, dx is short for
dL/dx, dy for dL/dy, and so on: dx has the shape of x.

Images are arrays (N, C, H, W): N images at a time (a *batch*), C channels, H rows, W columns.
Vectors are (N, features). `mnist_cli.scratch.engine` computes the same ten times as fast and is
tested against this file.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_cli.arrays import Array


class Layer:
    """A layer has weights, by name, and for each a gradient of the same shape; many have none."""

    def __init__(self, **weights: Array) -> None:
        self.weights = weights
        self.gradients = {name: np.zeros_like(array) for name, array in weights.items()}
        self.is_training = True

    def forward(self, x: Array) -> Array:
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        raise NotImplementedError


def random_weights(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return normal random numbers, small enough that outputs are about as large as inputs.

    Each output is a sum of "fan-in" products: inputs and weights of size 1 would give a sum of
    size sqrt(fan-in). The 2 makes up for ReLU, which sets half of all numbers to 0 (He et al.,
    2015, arXiv:1502.01852).
    """
    fan_in = math.prod(shape[1:])
    return rng.standard_normal(shape) * math.sqrt(2 / fan_in)


class Dense(Layer):
    """Every output is a weighted sum of all inputs, plus a bias.

        y[o] = b[o] + sum over i of W[o, i] x[i]

    From this formula, for one image: dy[o]/dx[i] = W[o, i], dy[o]/dW[o, i] = x[i], dy[o]/db[o] = 1.
    Multiplied by dy[o], and summed over the images for the weights, which all images share:

        dx[i] = sum over o of W[o, i] dy[o],   dW[o, i] = dy[o] x[i],   db[o] = dy[o]
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__(weight=random_weights((outputs, inputs), rng), bias=np.zeros(outputs))

    def forward(self, x: Array) -> Array:
        """Return y (N, outputs) for x (N, inputs): the sums are a product of matrices."""
        self.x = x
        return x @ self.weights["weight"].T + self.weights["bias"]

    def backward(self, dy: Array) -> Array:
        self.gradients["weight"] = dy.T @ self.x
        self.gradients["bias"] = dy.sum(axis=0)
        return dy @ self.weights["weight"]


class Conv(Layer):
    """A small pattern of weights, the kernel, is laid on every place of the image.

        y[f, h, w] = b[f] + sum over c, i, j of W[f, c, i, j] x[c, h s + i, w s + j]

    with kernels W of size k x k, one for each filter f, and a step s, the stride, from place to
    place. So that kernels fit at the edge too, x first gets a margin of zeros. As in `Dense`, each
    x that took part with weight W gets W dy, and each W that met x gets x dy, summed over all
    places and images.
    """

    def __init__(
        self, shape: tuple[int, ...], rng: np.random.Generator, *, stride: int = 1, margin: int = 1
    ) -> None:
        """``shape`` is that of the weight: filters, channels, k, k."""
        super().__init__(weight=random_weights(shape, rng), bias=np.zeros(shape[0]))
        self.kernel, self.stride, self.margin = shape[-1], stride, margin

    def forward(self, x: Array) -> Array:
        """Return y (N, filters, H', W') for x (N, channels, H, W)."""
        edges = (self.margin, self.margin)
        self.padded = np.pad(x, ((0, 0), (0, 0), edges, edges))
        y = self.weights["bias"][:, None, None]
        for i, j in np.ndindex(self.kernel, self.kernel):
            weight, seen = self.weights["weight"][:, :, i, j], self.seen_by(i, j, self.padded)
            y = y + np.einsum("fc,nchw->nfhw", weight, seen, optimize=True)
        return y

    def seen_by(self, i: int, j: int, padded: Array) -> Array:
        """Return the pixels that the weight at (i, j) meets, one for each place of the kernel."""
        height, width = (size - self.kernel + 1 for size in padded.shape[2:])
        return padded[:, :, i : i + height : self.stride, j : j + width : self.stride]

    def backward(self, dy: Array) -> Array:
        self.gradients["bias"] = dy.sum(axis=(0, 2, 3))
        self.gradients["weight"] = np.empty_like(self.weights["weight"])
        dpadded = np.zeros_like(self.padded)
        for i, j in np.ndindex(self.kernel, self.kernel):
            weight, seen = self.weights["weight"][:, :, i, j], self.seen_by(i, j, self.padded)
            self.gradients["weight"][:, :, i, j] = np.einsum(
                "nfhw,nchw->fc", dy, seen, optimize=True
            )
            dseen = self.seen_by(i, j, dpadded)  # a view: what is added to it is added to dpadded
            dseen += np.einsum("fc,nfhw->nchw", weight, dy, optimize=True)
        height, width = (size - 2 * self.margin for size in dpadded.shape[2:])
        return dpadded[:, :, self.margin :, self.margin :][:, :, :height, :width]


class BatchNorm(Layer):
    """Each channel is shifted and scaled to mean 0 and variance 1, then by learnt numbers.

        n = (x - mean) / sqrt(variance + 1e-5),   y = weight n + bias

    Mean and variance are those of the batch while training. Later there may be one image only: then
    running averages of them take their place. In training x changes y in three ways, by itself,
    through the mean and through the variance. Added up (Ioffe and Szegedy, 2015, arXiv:1502.03167):

        dx = weight / sqrt(variance + 1e-5) (dy - mean of dy - n mean of (dy n))
    """

    def __init__(self, channels: int) -> None:
        super().__init__(weight=np.ones(channels), bias=np.zeros(channels))
        self.running_mean, self.running_var = np.zeros(channels), np.ones(channels)

    def forward(self, x: Array) -> Array:
        """Return y of the shape of x, (N, channels, H, W) or (N, channels)."""
        self.others = (0, *range(2, x.ndim))  # the axes that are not the channels
        mean, variance = self.running_mean, self.running_var
        if self.is_training:
            mean, variance = x.mean(axis=self.others), x.var(axis=self.others)
            count = x.size / x.shape[1]
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
            # Dividing by count - 1 estimates the variance of all images from that of a batch.
            self.running_var = 0.9 * self.running_var + 0.1 * variance * count / (count - 1)
        self.deviation = np.sqrt(variance + 1e-5)
        self.n = (x - self.along(mean, x)) / self.along(self.deviation, x)
        return self.along(self.weights["weight"], x) * self.n + self.along(self.weights["bias"], x)

    def along(self, values: Array, x: Array) -> Array:
        """Return one value per channel in a shape that NumPy spreads over all of x."""
        return values.reshape(1, -1, *[1] * (x.ndim - 2))

    def backward(self, dy: Array) -> Array:
        self.gradients["weight"] = (dy * self.n).sum(axis=self.others)
        self.gradients["bias"] = dy.sum(axis=self.others)
        mean = dy.mean(axis=self.others, keepdims=True)
        share = (dy * self.n).mean(axis=self.others, keepdims=True)
        slope = self.along(self.weights["weight"] / self.deviation, dy)
        return slope * (dy - mean - self.n * share)


class Relu(Layer):
    """y = x where x > 0, else 0. The slope is 1 or 0."""

    def forward(self, x: Array) -> Array:
        self.slope = 1.0 * (x > 0)
        return x * self.slope

    def backward(self, dy: Array) -> Array:
        return dy * self.slope


class Sigmoid(Layer):
    """y = 1 / (1 + e^-x), between 0 and 1. The slope is y (1 - y)."""

    def forward(self, x: Array) -> Array:
        """Return y, by tanh: the same number, and e^-x cannot become too large."""
        self.y = (1 + np.tanh(x / 2)) / 2
        return self.y

    def backward(self, dy: Array) -> Array:
        return dy * self.y * (1 - self.y)


class Tanh(Layer):
    """y = tanh x, between -1 and 1. The slope is 1 - y^2."""

    def forward(self, x: Array) -> Array:
        self.y = np.tanh(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        return dy * (1 - self.y**2)


class Gelu(Layer):
    """y = x (1 + t) / 2 with t = tanh(u), u = sqrt(2 / pi) (x + 0.044715 x^3): a smooth ReLU.

    By the product rule the slope is (1 + t) / 2 + x / 2 (1 - t^2) du/dx.
    """

    def forward(self, x: Array) -> Array:
        self.x = x
        self.t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        return x * (1 + self.t) / 2

    def backward(self, dy: Array) -> Array:
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * self.x**2)
        return dy * ((1 + self.t) / 2 + self.x / 2 * (1 - self.t**2) * du)


class Pool(Layer):
    """Of each window of size x size pixels one number is kept: the largest, or the mean.

    The largest alone passes its slope on (in a tie the first). Of a mean each has an equal share.
    """

    def __init__(self, size: int = 2, *, mean: bool = False) -> None:
        super().__init__()
        self.size, self.mean = size, mean

    def forward(self, x: Array) -> Array:
        """Return y (N, C, H / size, W / size); rows and columns that are left over are not read."""
        self.shape, size = x.shape, self.size
        count, channels, height, width = x.shape
        rows, columns = height // size, width // size
        windows = x[:, :, : rows * size, : columns * size]
        windows = windows.reshape(count, channels, rows, size, columns, size).swapaxes(3, 4)
        windows = windows.reshape(count, channels, rows, columns, size * size)
        if self.mean:
            self.shares = np.full(windows.shape, 1 / size**2)
        else:
            self.shares = np.eye(size * size)[windows.argmax(axis=-1)]  # 1 for the largest, else 0
        return (windows * self.shares).sum(axis=-1)

    def backward(self, dy: Array) -> Array:
        count, channels, rows, columns = dy.shape
        windows = dy[..., None] * self.shares
        windows = windows.reshape(count, channels, rows, columns, self.size, self.size)
        dx = np.zeros(self.shape)
        read = dx[:, :, : rows * self.size, : columns * self.size]
        read[...] = windows.swapaxes(3, 4).reshape(read.shape)
        return dx


class Dropout(Layer):
    """While training a random share of the numbers is set to 0, and the rest is scaled up for it.

    So no unit can rely on one other alone (Srivastava et al., 2014).
    """

    def __init__(self, probability: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.probability, self.rng = probability, rng

    def forward(self, x: Array) -> Array:
        if not self.is_training:
            return x
        self.factors = (self.rng.random(x.shape) >= self.probability) / (1 - self.probability)
        return x * self.factors

    def backward(self, dy: Array) -> Array:
        return dy * self.factors


class Flatten(Layer):
    """Images become vectors: (N, C, H, W) to (N, C H W)."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, dy: Array) -> Array:
        return dy.reshape(self.shape)


class Residual(Layer):
    """y = x + body(x): two paths from x to y, whose slopes add up."""

    def __init__(self, body: Sequence[Layer]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Array) -> Array:
        return x + forward(self.body, x)

    def backward(self, dy: Array) -> Array:
        return dy + backward(self.body, dy)


def forward(layers: Sequence[Layer], x: Array) -> Array:
    """Return the outputs of the last layer."""
    for layer in layers:
        x = layer.forward(x)
    return x


def backward(layers: Sequence[Layer], dy: Array) -> Array:
    """Return dx of the first layer; each layer keeps the gradients of its weights."""
    for layer in reversed(layers):
        dy = layer.backward(dy)
    return dy


def flat(layers: Sequence[Layer]) -> list[Layer]:
    """Return all layers, those inside residuals too."""
    bodies = (layer.body for layer in layers if isinstance(layer, Residual))
    return [*layers, *(each for body in bodies for each in flat(body))]


def loss_and_gradient(scores: Array, labels: Array) -> tuple[float, Array]:
    """Return the loss, and its gradient with respect to the scores (N, 10); labels (N,) are digits.

    Softmax makes probabilities of scores: p = e^score / (sum of all ten e^score). The loss is the
    mean of -log p[label], 0 if the network is sure and right, large if it is sure and wrong. With
    log p = score - log(sum), its slope is p - 1 for the label's score, and p for the others.
    """
    scores = scores - scores.max(axis=1, keepdims=True)  # changes no p, and e^score stays finite
    powers = np.exp(scores)
    p = powers / powers.sum(axis=1, keepdims=True)
    is_label = np.eye(scores.shape[1])[labels]
    loss = -np.log((p * is_label).sum(axis=1)).mean()
    return float(loss), (p - is_label) / len(labels)


class SGD:
    """Stochastic gradient descent: a step down the slope of a batch, with momentum.

        v = momentum v + gradient,    w = w - rate (gradient + momentum v)

    The velocity v remembers earlier slopes, so that steps add up along a valley and cancel across
    it (Nesterov's momentum, as in PyTorch).
    """

    def __init__(self, layers: Sequence[Layer], *, rate: float, momentum: float = 0.9) -> None:
        self.layers, self.rate, self.momentum = flat(layers), rate, momentum
        self.velocities = [
            {name: np.zeros_like(array) for name, array in layer.weights.items()}
            for layer in self.layers
        ]

    def step(self) -> None:
        """Change all weights by the gradients that their layers keep."""
        for layer, velocities in zip(self.layers, self.velocities, strict=True):
            for name, gradient in layer.gradients.items():
                velocities[name] = self.momentum * velocities[name] + gradient
                step = gradient + self.momentum * velocities[name]
                layer.weights[name] -= self.rate * step


def fit(
    layers: Sequence[Layer], images: Array, labels: Array, optimizer: SGD, rng: np.random.Generator
) -> float:
    """Train for one epoch: once over all images, in random order. Return the mean loss."""
    batches = rng.permutation(len(images))[: len(images) // 64 * 64].reshape(-1, 64)
    losses = []
    for batch in batches:
        scores = forward(layers, images[batch])
        loss, gradient = loss_and_gradient(scores, labels[batch])
        backward(layers, gradient)
        optimizer.step()
        losses.append(loss)
    return float(np.mean(losses))


def accuracy(layers: Sequence[Layer], images: Array, labels: Array) -> float:
    """Return the share of images whose largest score is that of their label."""
    for layer in flat(layers):
        layer.is_training = False
    scores = forward(layers, images)
    for layer in flat(layers):
        layer.is_training = True
    return float((scores.argmax(axis=1) == labels).mean())


def read_mnist() -> tuple[Array, Array, Array, Array]:
    """Return MNIST from this package: training images (60000, 1, 28, 28) and labels, then tests.

    Pixels are shifted and scaled to mean 0 and variance 1. A file is a few bytes that say its size,
    then a byte per pixel or label.
    """
    folder = Path(__file__).parents[1] / "data"
    arrays: list[Array] = []
    for part in ("train", "t10k"):
        images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        arrays += [(pixels / 255 - 0.1307) / 0.3081, np.frombuffer(labels, np.uint8, offset=8)]
    return arrays[0], arrays[1], arrays[2], arrays[3]


def main(*, epochs: int = 4, limit: int | None = None) -> float:
    """Train a network with one hidden layer, say how it goes, and return its test accuracy."""
    rng = np.random.default_rng(0)
    print("Reading MNIST: 60,000 images of 28 x 28 pixels to learn from, 10,000 to test.")
    images, labels, test_images, test_labels = read_mnist()
    layers = [Flatten(), Dense(784, 128, rng), Relu(), Dense(128, 10, rng)]
    count = sum(array.size for layer in layers for array in layer.weights.values())
    print(f"The network: 784 pixels -> 128 units with ReLU -> 10 scores; {count:,} weights.")
    right = accuracy(layers, test_images, test_labels)
    print(f"Its weights are random: it reads {right:.1%} of the test images, as good as a guess.")
    began = time.perf_counter()
    for epoch in range(epochs):
        rate = 0.05 * (1 - epoch / epochs)  # large steps first, then small ones
        optimizer = SGD(layers, rate=rate)
        loss = fit(layers, images[:limit], labels[:limit], optimizer, rng)
        right = accuracy(layers, test_images, test_labels)
        print(
            f"After seeing each image {epoch + 1}x: mean loss {loss:.3f}, {right:.2%} of the test "
            f"images read right ({time.perf_counter() - began:.0f} s)."
        )
    return right


if __name__ == "__main__":
    main()
