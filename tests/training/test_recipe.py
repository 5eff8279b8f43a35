"""The recipe: what every framework is given must be fixed by the seed, and sensible."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import UsageError
from mnist_cli.networks.spec import initial_weights, parameter_count, parameter_shapes
from mnist_cli.training import recipe

CNN, MLP = ModelSpec("cnn"), ModelSpec("mlp")


def test_the_networks_have_the_parameters_that_the_readme_names() -> None:
    assert parameter_count(CNN) == 421_642
    assert parameter_count(MLP) == 101_770


@pytest.mark.parametrize("spec", [CNN, MLP, ModelSpec("mlp", "sigmoid")])
def test_starting_weights_are_canonical_and_fixed_by_the_seed(spec: ModelSpec) -> None:
    weights, again, other = (recipe.starting_weights(spec, seed) for seed in (3, 3, 4))
    assert {name: array.shape for name, array in weights.items()} == parameter_shapes(spec)
    for name, array in weights.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(weights["fc1.weight"], other["fc1.weight"])


def test_starting_weights_have_the_spread_of_he_et_al() -> None:
    weights = initial_weights(CNN, np.random.default_rng(0))
    # fc1 has 401,408 draws: their standard deviation is within 1% of the true one by far
    # (its standard error is 0.11%).
    assert weights["fc1.weight"].std() == pytest.approx((2 / 3136) ** 0.5, rel=0.01)
    assert not weights["fc1.bias"].any()


def test_an_epoch_visits_each_image_at_most_once_and_only_whole_batches() -> None:
    config = TrainConfig(batch_size=64)
    order = recipe.epoch_order(config, epoch=1, count=1000)
    assert len(order) == 960
    assert len(set(order.tolist())) == 960
    assert order.min() >= 0
    assert order.max() < 1000


def test_each_epoch_leaves_other_images_out() -> None:
    left_out = [
        set(range(100)) - set(recipe.epoch_order(TrainConfig(), epoch=epoch, count=100).tolist())
        for epoch in (1, 2)
    ]
    assert [len(images) for images in left_out] == [36, 36]
    assert left_out[0] != left_out[1]


def test_epochs_and_seeds_have_orders_of_their_own_that_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return recipe.epoch_order(TrainConfig(seed=seed), epoch=epoch, count=640).tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nearly_zero() -> None:
    rates = recipe.learning_rates(TrainConfig(learning_rate=0.2), total_steps=100)
    peak = int(rates.argmax())
    assert peak == 19  # the last of the first 20%
    assert rates[peak] == np.float32(0.2)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert 0 < rates[-1] < 0.001


def test_the_default_recipe_is_the_one_that_the_documentation_names() -> None:
    config = TrainConfig()
    path = Path(__file__).parents[2] / "docs" / "fairness.md"
    text = " ".join(path.read_text(encoding="utf-8").split())
    for sentence in (
        f"Nesterov momentum {config.momentum:g} in PyTorch's form",
        f"weight decay {config.weight_decay:.0e}".replace("e-04", "e-4"),
        f"peak of {config.learning_rate:g} over",
        f"half a cosine to the power {config.decay_power:g}",
        f"Labels are smoothed by {config.label_smoothing:g}",
    ):
        assert re.search(re.escape(sentence) + r"(?!\.?\d)", text), sentence  # 1 is not 1.5
    assert "over a fifth of the steps" in text
    assert config.warmup_fraction == 1 / 5
    assert "the default of two epochs" in text
    assert config.epochs == 2


def test_the_learning_rate_falls_by_a_cosine_to_the_power_asked_for() -> None:
    cosine, sooner = (
        recipe.learning_rates(TrainConfig(learning_rate=1, decay_power=power), total_steps=100)
        for power in (1, 2)
    )
    np.testing.assert_array_equal(sooner[:20], cosine[:20])
    np.testing.assert_allclose(sooner[20:], cosine[20:] ** 2, rtol=1e-5)  # float32
    assert cosine[20 + 39] == pytest.approx(0.5, abs=0.02)  # half way down


def test_the_fall_is_half_a_cosine_that_would_end_at_0_one_step_after_the_last() -> None:
    config = TrainConfig(learning_rate=1, warmup_fraction=1 / 3, decay_power=1)
    rates = recipe.learning_rates(config, total_steps=6)
    # Two steps up; then the cosine at 1/5, 2/5, 3/5 and 4/5 of its half period. float32.
    falling = [(1 + np.cos(np.pi * fifths / 5)) / 2 for fifths in (1, 2, 3, 4)]
    np.testing.assert_allclose(rates, [0.5, 1.0, *falling], rtol=1e-6)


@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_the_shortest_schedules_reach_the_peak_and_stay_above_0(total_steps: int) -> None:
    rates = recipe.learning_rates(TrainConfig(learning_rate=0.25), total_steps)
    assert rates.shape == (total_steps,)
    assert rates[0] == rates.max() == 0.25
    assert (rates > 0).all()


def test_normalizing_gives_mnist_mean_zero_and_spread_one() -> None:
    from idx_files import mnist

    images = recipe.normalize(mnist().train_images)
    assert images.dtype == np.float32
    # The constants have four digits: mean and spread are right to about 1 in 2,000.
    assert images.mean(dtype=np.float64) == pytest.approx(0, abs=1e-3)
    assert images.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 10_001),
        ("batch_size", 0),
        ("batch_size", 65_537),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("warmup_fraction", 0.0),
        ("decay_power", 0.0),
        ("decay_power", float("nan")),
        ("label_smoothing", 1.0),
        ("seed", -1),
        ("target_accuracy", 0.0),
        ("target_accuracy", 99.0),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field.replace("_", " ")) as error_info:
        TrainConfig(**{field: value})  # type: ignore[arg-type]
    assert str(value) in str(error_info.value)


def test_the_cnn_takes_no_other_activation() -> None:
    with pytest.raises(UsageError, match="--activation"):
        ModelSpec("cnn", "sigmoid")
