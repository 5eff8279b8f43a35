"""A neural network from scratch: what PyTorch and TensorFlow do underneath, in one file.

    python -m mnist_cli.scratch.plain

trains a network to read handwritten digits. Read from the top: part 1 is a network that learns,
part 2 is more kinds of layers, part 3 is the program. Its tests check every slope by trying: raise
a number a little, and see how L changes. `scratch/engine` computes the same, but fast.

A network is a chain of layers. Each turns numbers x into numbers y. The first x are the pixels of
an image, the last y are ten scores, one for each digit: the largest is the answer. One more number,
the *loss* L, says how wrong the scores are. To learn is to change the weights, which are numbers
inside the layers, a little, over and over, so that L falls. Which way? dL/dw is the slope of L in
one weight w: if w rises by 0.001, L rises by about 0.001 dL/dw. So w must fall where the slope is
positive, and rise where it is negative. The slopes of a whole array are its *gradient*.

The chain rule finds all slopes, from the last layer back to the first. Take a layer y = 3 x, then
L = y^2, at x = 2. There y = 6 and dL/dy = 2 y = 12, so dL/dx = dL/dy dy/dx = 12 * 3 = 36. Of all
that comes after it, the layer must know only the 12. If x changes several y, their parts add up:

    dL/dx = sum of dL/dy dy/dx over every y that x changes

So a layer has two methods. ``forward`` computes y from x, and keeps what ``backward`` will need.
``backward`` computes dL/dx from dL/dy, and the gradients of its weights. In code dx is short for
dL/dx, dy for dL/dy: dx is an array of the shape of x, and is the dy of the layer before.

N images, a *batch*, are computed together. x is (N, features), or for images (N, C, H, W): N images
of C channels (1 if grey), H rows and W columns.
"""

import gzip
import math
import os
import time
from pathlib import Path

if __name__ == "__main__":  # before NumPy loads: on arrays this small its threads lose time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.random import Generator  # of random numbers

from mnist_cli.arrays import Array  # the type of NumPy's arrays

# Part 1: a network that learns.


class Layer:
    """What layers have in common. Many have no weights, and only `Residual` has layers inside."""

    slope: Array  # dy/dx, where x changes only the y in its own place

    def __init__(self) -> None:
        self.weights: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}  # those of the weights, by the same names
        self.velocities: dict[str, Array] = {}  # see `step`
        self.inside: list[Layer] = []
        self.is_training = True  # after training `BatchNorm` and `Dropout` do something else

    def forward(self, x: Array) -> Array:
        raise NotImplementedError  # every kind of layer has its own

    def backward(self, dy: Array) -> Array:
        """Return dx if x changes only the y in its own place; other layers have their own."""
        return dy * self.slope


def forward(layers: list[Layer], x: Array, *, is_training: bool = True) -> Array:
    """Return y of the last layer."""
    for layer in layers:
        layer.is_training = is_training
        x = layer.forward(x)
    return x


def backward(layers: list[Layer], dy: Array) -> Array:
    """Return dx of the first layer; each layer keeps the gradients of its weights."""
    for layer in reversed(layers):
        dy = layer.backward(dy)
    return dy


class Flatten(Layer):
    """Images become vectors, (N, C, H, W) becomes (N, C H W): the numbers stay the same."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)  # -1: as many as there are

    def backward(self, dy: Array) -> Array:
        return dy.reshape(self.shape)


def random_weights(shape: tuple[int, ...], rng: Generator) -> Array:
    """Return weights (outputs, inputs, ...) of such a size that y is about as large as x.

    A sum of n random numbers, as often positive as negative, is about sqrt(n) times as large as one
    of them: weights of size sqrt(1 / n) would do. The 2 is for `Relu`, which sets half of x to 0.
    """
    n = math.prod(shape[1:])
    return rng.standard_normal(shape) * math.sqrt(2 / n)


class Dense(Layer):
    """Every output is a weighted sum of all inputs, plus a number of its own, the bias.

        y[o] = bias[o] + sum over i of weight[o, i] x[i]

    If x[i] rises by 1, each y[o] rises by weight[o, i]. If weight[o, i] rises by 1, y[o] rises by
    x[i]; if bias[o] does, by 1. These are the dy/dx of the chain rule, so

        dx[i] = sum over o of dy[o] weight[o, i],   dweight[o, i] = dy[o] x[i],   dbias[o] = dy[o]

    All images share the weights, so these two are also summed over images. Products of matrices, @,
    are such sums: (A @ B)[n, o] = sum over i of A[n, i] B[i, o]; .T swaps rows and columns to fit.
    """

    def __init__(self, inputs: int, outputs: int, rng: Generator) -> None:
        super().__init__()
        self.weights = {"weight": random_weights((outputs, inputs), rng), "bias": np.zeros(outputs)}

    def forward(self, x: Array) -> Array:
        self.x = x
        return x @ self.weights["weight"].T + self.weights["bias"]

    def backward(self, dy: Array) -> Array:
        self.gradients = {"weight": dy.T @ self.x, "bias": dy.sum(axis=0)}  # summed over images
        return dy @ self.weights["weight"]  # summed over outputs


class Relu(Layer):
    """y = x where x > 0, else 0.

    Two Dense layers in a row can do no more than one: sums of sums are sums. With this bend between
    them they can, as bends add up to any curve.
    """

    def forward(self, x: Array) -> Array:
        self.slope = np.where(x > 0, 1.0, 0.0)
        return x * self.slope


def loss_and_gradient(scores: Array, labels: Array) -> tuple[float, Array]:
    """Return L, and dL/dscores, for scores s (N, 10) and labels (N,), the right digits.

    Scores become probabilities p[k] = e^s[k] / S, where S is the sum of all ten e^s[j]. The loss of
    an image is -log p[label]: 0 if p[label] is 1, large if it is near 0. L is its mean over the
    images. As log p[k] = s[k] - log S, and the slope of log S in s[k] is e^s[k] / S = p[k],

        loss = log S - s[label],   its slope in s[k] = p[k] - (1 if k is the label, else 0)
    """
    # e^1000 is too large to compute. To take the largest s from all divides all e^s, and S, alike.
    scores = scores - scores.max(axis=1, keepdims=True)  # keepdims: (N, 1), not (N,)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    right = np.eye(scores.shape[1])[labels]  # np.eye(10)[2] has a 1 at 2, and nine 0
    loss = -(log_p * right).sum() / len(labels)
    return float(loss), (np.exp(log_p) - right) / len(labels)


def step(layers: list[Layer], *, rate: float, momentum: float = 0.9) -> None:
    """Change all weights by their gradients: a step downhill.

    Plainly, w = w - rate gradient. With momentum, a velocity v remembers earlier gradients: steps
    that agree become longer, steps to and fro cancel.

        v = momentum v + gradient,   w = w - rate (momentum v + gradient)

    The bracket is v as it will be one step ahead if the slope stays the same (Nesterov's momentum).
    """
    for layer in layers:
        for name, gradient in layer.gradients.items():
            v = momentum * layer.velocities.get(name, 0) + gradient  # 0 before the first step
            layer.velocities[name] = v
            layer.weights[name] -= rate * (momentum * v + gradient)
        step(layer.inside, rate=rate, momentum=momentum)


def fit(layers: list[Layer], images: Array, labels: Array, rate: float, rng: Generator) -> float:
    """Train for one epoch: once over all images, in random order. Return the mean loss.

    A step for every 64 images goes down less straight than one for all 60,000, but there are 938 of
    them (stochastic gradient descent, SGD).
    """
    order, losses = rng.permutation(len(images)), []
    for start in range(0, len(images), 64):
        batch = order[start : start + 64]
        scores = forward(layers, images[batch])
        loss, gradient = loss_and_gradient(scores, labels[batch])
        backward(layers, gradient)
        step(layers, rate=rate)
        losses.append(loss)
    return float(np.mean(losses))


def accuracy(layers: list[Layer], images: Array, labels: Array) -> float:
    """Return the share of images whose largest score is that of their label."""
    scores = forward(layers, images, is_training=False)
    return float((scores.argmax(axis=1) == labels).mean())


# Part 2: more layers.


class Sigmoid(Layer):
    """y = 1 / (1 + e^-x), from 0 to 1. The slope e^-x / (1 + e^-x)^2 is y (1 - y)."""

    def forward(self, x: Array) -> Array:
        y = (1 + np.tanh(x / 2)) / 2  # the same, and e^1000 is never computed
        self.slope = y * (1 - y)
        return y


class Tanh(Layer):
    """y = (e^x - e^-x) / (e^x + e^-x), from -1 to 1. By the quotient rule the slope is 1 - y^2."""

    def forward(self, x: Array) -> Array:
        y = np.tanh(x)
        self.slope = 1 - y**2
        return y


class Gelu(Layer):
    """y = x p: a smooth ReLU, as p rises from 0 to 1 with x.

    p is the share of normally distributed numbers below x, very nearly (1 + tanh u) / 2 with
    u = sqrt(2 / pi) (x + 0.044715 x^3). The slope is p + x dp/dx, dp/dx = (1 - tanh^2 u) / 2 du/dx.
    """

    def forward(self, x: Array) -> Array:
        t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        p, dp = (1 + t) / 2, (1 - t**2) / 2 * du
        self.slope = p + x * dp
        return x * p


def window(x: Array, h: int, w: int, size: int, stride: int) -> Array:
    """Return size x size pixels of x: windows are ``stride`` pixels apart, this is number (h, w).

    A slice is a part of x, not a copy: what is added to a window is added to x.
    """
    top, left = h * stride, w * stride
    return x[:, :, top : top + size, left : left + size]


class Conv(Layer):
    """Convolution: one small Dense layer that looks at every window of the image in turn.

    ``shape`` is that of the weights, (outputs, channels, size, size). The inputs are the pixels of
    a window in all channels, the outputs are the channels of y there. So the same weights find a
    stroke wherever it is. A margin of zeros around the image lets windows reach over its edge.

    Both loops do for one window what `Dense` does. All windows share the weights, and a pixel is in
    several windows: so slopes add up over windows.
    """

    def __init__(
        self, shape: tuple[int, ...], rng: Generator, *, stride: int = 1, margin: int = 1
    ) -> None:
        super().__init__()
        self.weights = {"weight": random_weights(shape, rng), "bias": np.zeros(shape[0])}
        self.size, self.stride, self.margin = shape[-1], stride, margin

    def forward(self, x: Array) -> Array:
        edges = (self.margin, self.margin)  # so many zeros before and after rows, and columns
        self.padded = np.pad(x, ((0, 0), (0, 0), edges, edges))
        rows = (self.padded.shape[2] - self.size) // self.stride + 1
        columns = (self.padded.shape[3] - self.size) // self.stride + 1
        bias = self.weights["bias"]
        weight = self.weights["weight"].reshape(len(bias), -1)  # a row for each output, as in Dense
        y = np.zeros((len(x), len(bias), rows, columns))
        for h, w in np.ndindex(rows, columns):  # (0, 0), (0, 1), ..., (1, 0), ...
            pixels = window(self.padded, h, w, self.size, self.stride)
            y[:, :, h, w] = pixels.reshape(len(x), -1) @ weight.T + bias
        return y

    def backward(self, dy: Array) -> Array:
        count, outputs, rows, columns = dy.shape
        weight = self.weights["weight"].reshape(outputs, -1)
        dweight, dpadded = np.zeros_like(weight), np.zeros_like(self.padded)
        for h, w in np.ndindex(rows, columns):
            pixels = window(self.padded, h, w, self.size, self.stride)
            dweight += dy[:, :, h, w].T @ pixels.reshape(count, -1)
            dpixels = window(dpadded, h, w, self.size, self.stride)
            dpixels += (dy[:, :, h, w] @ weight).reshape(dpixels.shape)
        self.gradients["weight"] = dweight.reshape(self.weights["weight"].shape)
        self.gradients["bias"] = dy.sum(axis=(0, 2, 3))  # over images and windows
        m, height, width = self.margin, dpadded.shape[2], dpadded.shape[3]
        return dpadded[:, :, m : height - m, m : width - m]


class Pool(Layer):
    """Of each window of size x size pixels one number is kept: the largest, or the mean.

    Only the largest changes y (the first of several): its slope is 1, others have 0. In a mean of n
    pixels each has the slope 1 / n. Either way y is the sum of pixel times slope.
    """

    def __init__(self, size: int = 2, *, mean: bool = False) -> None:
        super().__init__()
        self.size, self.mean = size, mean

    def forward(self, x: Array) -> Array:
        """Return y (N, C, H // size, W // size); rows and columns left over are not used."""
        count, channels, height, width = x.shape
        y = np.zeros((count, channels, height // self.size, width // self.size))
        self.slope = np.zeros_like(x)
        for h, w in np.ndindex(*y.shape[2:]):
            pixels = window(x, h, w, self.size, self.size)
            slope = window(self.slope, h, w, self.size, self.size)
            if self.mean:
                slope += 1 / self.size**2
            else:
                largest = pixels.reshape(count, channels, -1).argmax(axis=2)
                slope += np.eye(self.size**2)[largest].reshape(pixels.shape)
            y[:, :, h, w] = (pixels * slope).sum(axis=(2, 3))
        return y

    def backward(self, dy: Array) -> Array:
        dx = self.slope.copy()
        for h, w in np.ndindex(*dy.shape[2:]):
            pixels = window(dx, h, w, self.size, self.size)
            pixels *= dy[:, :, h : h + 1, w : w + 1]  # (N, C, 1, 1): one number for all pixels
        return dx


class BatchNorm(Layer):
    """Each channel is shifted and scaled to mean 0 and variance 1, then by numbers that it learns.

        n = (x - mean) / d,   d = sqrt(variance + 0.00001),   y = weight n + bias

    Mean and variance are those of the channel in the batch. After training an image may come alone:
    then running averages of them take their place. dweight and dbias are as in `Dense`, and
    dn = weight dy. With m numbers in the channel, x[i] changes every n[j]:

        dn[j]/dx[i] = (1 if j is i, else 0) / d - 1 / (m d) - n[j] n[i] / (m d)

    by itself; through the mean, whose slope is 1 / m; and through d, whose slope is n[i] / m: that
    of the variance is 2 (x[i] - mean) / m, and that of sqrt(u) is 1 / (2 sqrt(u)). The chain rule
    sums dn[j] times all this over j, and a sum over m is a mean:

        dx = (dn - mean of dn - n mean of (dn n)) / d
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = {"weight": np.ones(channels), "bias": np.zeros(channels)}
        self.running_mean, self.running_var = np.zeros(channels), np.ones(channels)

    def forward(self, x: Array) -> Array:
        shape = x.shape  # (N, C, H, W) or (N, C)
        x = x.reshape(*shape[:2], -1)  # (N, C, H W) or (N, C, 1): from here on both are alike
        mean, variance = self.running_mean, self.running_var
        if self.is_training:
            mean, variance = x.mean(axis=(0, 2)), x.var(axis=(0, 2))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
            # ddof=1 divides by m - 1, the best guess at the variance of more than this batch.
            self.running_var = 0.9 * self.running_var + 0.1 * x.var(axis=(0, 2), ddof=1)
        self.d = np.sqrt(variance + 0.00001)[:, None]  # (C, 1): one number for all of a channel
        self.n = (x - mean[:, None]) / self.d
        y = self.weights["weight"][:, None] * self.n + self.weights["bias"][:, None]
        return y.reshape(shape)

    def backward(self, dy: Array) -> Array:
        shape, dy = dy.shape, dy.reshape(self.n.shape)
        self.gradients = {"weight": (dy * self.n).sum(axis=(0, 2)), "bias": dy.sum(axis=(0, 2))}
        dn = self.weights["weight"][:, None] * dy
        mean, mean_n = dn.mean(axis=(0, 2)), (dn * self.n).mean(axis=(0, 2))
        dx = (dn - mean[:, None] - self.n * mean_n[:, None]) / self.d
        return dx.reshape(shape)


class Dropout(Layer):
    """In training a random share of the x become 0, so that the network relies on no single one.

    The rest is divided by the share that is left, so that the mean stays the same.
    """

    def __init__(self, probability: float, rng: Generator) -> None:
        super().__init__()
        self.probability, self.rng = probability, rng

    def forward(self, x: Array) -> Array:
        self.slope = np.ones_like(x)
        if self.is_training:
            is_kept = self.rng.random(x.shape) >= self.probability
            self.slope = is_kept / (1 - self.probability)
        return x * self.slope


class Residual(Layer):
    """y = x + f(x), where f is a chain of layers: x changes y in two ways, whose slopes add up."""

    def __init__(self, inside: list[Layer]) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Array) -> Array:
        return x + forward(self.inside, x, is_training=self.is_training)

    def backward(self, dy: Array) -> Array:
        return dy + backward(self.inside, dy)


# Part 3: the program.


def read_mnist(part: str) -> tuple[Array, Array]:
    """Return images (count, 1, 28, 28), of mean 0 and variance 1, and labels (count,)."""
    start = Path(__file__).parents[1] / "data" / part
    pixels = gzip.decompress(Path(f"{start}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(Path(f"{start}-labels-idx1-ubyte.gz").read_bytes())
    # 16 and 8 bytes tell the sizes, then each pixel (0 to 255) and each label (0 to 9) is a byte.
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28) / 255
    # 0.1307 and 0.3081 are the mean and standard deviation of all pixels to learn from.
    return (images - 0.1307) / 0.3081, np.frombuffer(labels, np.uint8, offset=8)


def main(*, epochs: int = 3, limit: int | None = None) -> float:
    """Train a network with one hidden layer, say how it goes, and return its test accuracy."""
    print("Reading MNIST: 60,000 images of 28 x 28 pixels to learn from, 10,000 to test.")
    (images, labels), (test_images, test_labels) = read_mnist("train"), read_mnist("t10k")
    rng = np.random.default_rng(0)
    layers = [Flatten(), Dense(784, 128, rng), Relu(), Dense(128, 10, rng)]
    count = sum(array.size for layer in layers for array in layer.weights.values())
    print(f"The network: 784 pixels -> 128 units with ReLU -> 10 scores; {count:,} weights.")
    right = accuracy(layers, test_images, test_labels)
    print(f"Its weights are random: it reads {right:.1%} of the test images, as good as a guess.")
    began = time.perf_counter()
    for epoch in range(epochs):
        rate = 0.05 * (1 - epoch / epochs)  # large steps first, then small ones
        loss = fit(layers, images[:limit], labels[:limit], rate, rng)
        right = accuracy(layers, test_images, test_labels)
        print(
            f"After seeing each image {epoch + 1}x: mean loss {loss:.3f}, {right:.2%} of the test "
            f"images read right ({time.perf_counter() - began:.0f} s)."
        )
    return right


if __name__ == "__main__":
    main()
