"""Put one framework through the contract and save all it did: never two frameworks in a process.

Usage: python framework_driver.py FRAMEWORK OUT.npz
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from mnist_cli import adapters
from mnist_cli.arrays import NO_DIGIT, Weights
from mnist_cli.config import NETWORKS, ModelSpec, TrainConfig
from mnist_cli.data.registry import load_dataset
from mnist_cli.data.split import split
from mnist_cli.networks.language import find_network
from mnist_cli.networks.spec import parameter_shapes
from mnist_cli.training import recipe

SPECS = {
    "cnn": ModelSpec("cnn"),
    "mlp": ModelSpec("mlp"),
    "sigmoid": ModelSpec("mlp", "sigmoid"),
    "lenet5": ModelSpec("lenet5"),
    # Batch norm, dropout and a residual, but without maxima and kinks: among the millions of values
    # of a step some are tied or 0 but for rounding, which then decides where gradients go.
    "resnet": find_network(NETWORKS["resnet"].replace("pool", "pool avg").replace("relu", "gelu")),
}
STEPS = 100
ODD_BATCH = 257
MOVING_RATE = 0.1
CONFIG = TrainConfig()
# Gradients at equal weights agree to 3e-7 in any case. But of the CNN's 600,000 pooling windows a
# step some are tied to the last bit; rounding then picks another winner, and at the default rate
# that difference of 1e-4 grows within 50 steps as in any chaos. At a gentle rate it does not.
LEARNING_RATES = {"cnn": 0.01, "mlp": 0.05, "sigmoid": 0.05, "lenet5": 0.01, "resnet": 0.01}


def given_weights(spec: ModelSpec) -> Weights:
    """Starting weights, but with biases that would show if they were lost or misplaced."""
    rng = np.random.default_rng(1)
    weights = recipe.starting_weights(spec, 0)
    return {
        name: array if array.any() else rng.normal(0, 0.1, array.shape).astype(np.float32)
        for name, array in weights.items()
    }


def given_velocities(spec: ModelSpec) -> Weights:
    """Velocities of a network in motion."""
    weights = given_weights(spec)
    return {name: weights[name] * np.float32(0.5) + 1 for name in parameter_shapes(spec)}


def main(framework: str, path: str) -> None:
    """Train each network for 100 steps on real digits, whole, in two halves, and once more."""
    data = split(load_dataset(), seed=0)
    images, labels = recipe.normalize(data.train_images[: STEPS * 64]), data.train_labels
    pictures = recipe.normalize(data.validation_images[:200])
    order = recipe.epoch_order(CONFIG, epoch=1, count=len(images))
    saved: dict[str, np.ndarray] = {}

    def keep(key: str, arrays: Weights) -> None:
        saved.update({f"{key}/{name}": array for name, array in arrays.items()})

    adapter = adapters.load(framework)
    for arch, spec in SPECS.items():
        # The first steps of a run of 5 epochs.
        config = replace(CONFIG, learning_rate=LEARNING_RATES[arch])
        rates = recipe.learning_rates(config, 5 * 859)[:STEPS]

        def fresh(  # type: ignore[no-untyped-def]
            weights: Weights,
            velocities: Weights,
            spec: ModelSpec = spec,
            config: TrainConfig = CONFIG,
        ):
            classifier = adapter.build(spec, config, device="cpu", threads=2)
            classifier.import_weights(weights)
            classifier.import_optimizer(velocities)
            return classifier

        def train(  # type: ignore[no-untyped-def]
            classifier, first: int, last: int, rates: np.ndarray = rates, *, looks: bool = False
        ) -> np.ndarray:
            steps = slice(first, last)
            chunks = classifier.train_epoch(
                images,
                labels[: len(images)],
                order=order.reshape(-1, 64)[steps].ravel(),
                learning_rates=rates[steps],
                mask_seeds=np.arange(STEPS)[steps],
            )
            losses = []
            for chunk in chunks:
                losses.append(chunk)
                if looks:  # as for a target accuracy
                    classifier.predict_logits(pictures)
            return np.concatenate(losses)

        start = given_weights(spec)
        zeros = {name: np.zeros(s, np.float32) for name, s in parameter_shapes(spec).items()}

        given = given_velocities(spec)
        classifier = fresh(start, given)
        keep(f"{arch}/returned velocities", classifier.export_optimizer())
        train(classifier, 0, 1, np.full(STEPS, MOVING_RATE, np.float32))
        keep(f"{arch}/moved velocities", classifier.export_optimizer())
        keep(f"{arch}/moved weights", classifier.export_weights())

        classifier = fresh(start, zeros)
        keep(f"{arch}/returned", classifier.export_weights())
        for count in (0, 1, 200):
            saved[f"{arch}/logits of {count}"] = classifier.predict_logits(pictures[:count])
        train(classifier, 0, 1)
        # After one step from rest the velocity is the gradient, plus weight decay.
        keep(f"{arch}/gradient", classifier.export_optimizer())

        # More than one thread is worth for the MLP too, and no two halves.
        odd = fresh(start, zeros, config=replace(CONFIG, batch_size=ODD_BATCH))
        list(
            odd.train_epoch(
                images, labels[: len(images)], order=order[:ODD_BATCH], learning_rates=rates[:1]
            )
        )
        keep(f"{arch}/gradient of an odd batch", odd.export_optimizer())

        rejecting = fresh(start, zeros, config=replace(CONFIG, reject=True))
        some_are_no_digits = np.where(
            np.arange(len(images)) % 5 == 0, NO_DIGIT, labels[: len(images)]
        )
        (saved[f"{arch}/loss with non-digits"],) = rejecting.train_epoch(
            images, some_are_no_digits, order=order[:64], learning_rates=rates[:1]
        )
        keep(f"{arch}/gradient with non-digits", rejecting.export_optimizer())

        classifier = fresh(start, zeros)
        saved[f"{arch}/losses"] = train(classifier, 0, STEPS)
        keep(f"{arch}/trained", classifier.export_weights())
        saved[f"{arch}/trained logits"] = classifier.predict_logits(pictures)

        again = fresh(start, zeros)
        saved[f"{arch}/losses again"] = train(again, 0, STEPS, looks=True)

        half = fresh(start, zeros)
        first = train(half, 0, STEPS // 2)
        resumed = fresh(half.export_weights(), half.export_optimizer())
        second = train(resumed, STEPS // 2, STEPS)
        saved[f"{arch}/losses in halves"] = np.concatenate([first, second])
    np.savez(path, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
