"""The page's answers are those of the framework that trained a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from web_samples import drawn, png, save_model

from mnist_cli.arrays import CLASSES
from mnist_cli.prediction import Model
from mnist_cli.training import evaluation
from mnist_cli.web.models import load_models
from mnist_cli.web.predicting import disagreements, images_of, predict, prepare


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_numpy_answers_as_the_framework_of_a_model(framework: str, tmp_path: Path) -> None:
    path = save_model(tmp_path, f"{framework}-cnn", framework=framework)
    models = load_models(tmp_path)
    (named,) = models.named
    pictures = [png(drawn(digit)) for digit in range(CLASSES)]
    images = np.concatenate([images_of(prepare(models.reader, each)) for each in pictures])
    theirs = Model(path, framework=framework).logits(images)
    expected = evaluation.probabilities(theirs / named.model.calibration.temperature)
    for picture, row in zip(pictures, expected, strict=True):
        (answer,) = predict(models, picture)["models"]
        # What the page promises; float32 in another order of sums differs by some 1e-6.
        assert answer["digits"][0]["probabilities"] == pytest.approx(row.tolist(), abs=1e-4)


def test_disagreements_name_who_reads_what_by_votes() -> None:
    read = {"a": (4, 7), "b": (9, 7), "c": (9, 7)}
    answers = [
        {"name": name, "digits": [{"digit": digit} for digit in digits]}
        for name, digits in read.items()
    ]
    assert disagreements(answers, 2) == [
        {
            "position": 0,
            "answers": [{"digit": 9, "models": ["b", "c"]}, {"digit": 4, "models": ["a"]}],
        }
    ]
    assert disagreements(answers[1:], 2) == []
    assert disagreements(answers, 0) == []
