"""The learning rate from step to step, and how long a training lasts."""

from __future__ import annotations

from typing import Any

import pytest

from deblurgan.config import train_config
from deblurgan.training.schedule import Schedule


def schedule(pictures: int = 3, **options: Any) -> Schedule:
    return Schedule(train_config("unused", **options), pictures)


def test_an_epoch_uses_every_picture() -> None:
    lasting = schedule(7, epochs=10, batch_size=2)
    assert (lasting.epoch_steps, lasting.total_steps) == (4, 40)
    assert [lasting.epoch(step) for step in (0, 3, 4, 39)] == [0, 0, 1, 9]
    assert schedule(7, steps=5).total_steps == 5


def test_learning_rate_is_the_released_schedule() -> None:
    """Epochs 1 ... 151 at 1e-4, then lr0 / 150 less an epoch, epoch 300 at 6.7e-7."""
    paper = schedule(epochs=300, lr=1e-4, batch_size=1)
    assert paper.epoch_steps == 3 and paper.total_steps == 900

    def rate(epoch: int, step: int = 0) -> float:
        return paper.learning_rate((epoch - 1) * 3 + step)

    assert rate(1) == rate(75, 2) == rate(151, 2) == 1e-4
    for epoch in (152, 200, 299, 300):
        assert rate(epoch) == pytest.approx(1e-4 - (epoch - 151) * 1e-4 / 150)
    assert rate(300) == rate(300, 2) == pytest.approx(6.667e-7, rel=1e-3)


def test_learning_rate_by_steps() -> None:
    rates = [schedule(steps=100, lr=1.0).learning_rate(step) for step in (0, 50, 75, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.02])


def test_a_constant_learning_rate() -> None:
    rates = [schedule(steps=100, lr=1.0, constant=1.0).learning_rate(step) for step in (0, 99)]
    assert rates == [1.0, 1.0]


def test_learning_rate_by_cosine_after_a_warm_up() -> None:
    rising = schedule(steps=100, lr=1.0, schedule="cosine", warmup=10)
    rates = [rising.learning_rate(step) for step in (0, 4, 50, 75, 99)]
    assert rates == pytest.approx([0.1, 0.49803, 0.5, 0.14645, 2.467e-4], rel=1e-3)


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup must be less than the training's 6 steps, got 6"):
        schedule(steps=6, warmup=6)
