"""Camera-shake paths: the reference's, as long as they were to be, straight where nothing shakes."""

from __future__ import annotations

import pytest
import torch

from deblurgan import reference
from deblurgan.blur import (
    random_trajectories,
)


@pytest.mark.parametrize("anxiety", [0.0, 0.003, 0.01, 0.1])
def test_trajectories_match_the_reference(anxiety: float, poisoned: None) -> None:
    """fp32 against fp64: a path bends with its own history, so single paths may drift by a tenth of a pixel."""
    got = random_trajectories(50, seed=3, first=7, anxiety=anxiety)
    wanted = reference.random_trajectories(torch.full((50,), anxiety), seed=3, first=7)
    drift = (got - wanted).abs().amax((1, 2))
    assert drift.median() < 1e-3
    assert drift.max() < 0.1


def test_path_length_is_exact() -> None:
    for steps, length in ((2000, 60.0), (100, 25.0), (2, 3.0)):
        paths = random_trajectories(20, seed=1, steps=steps, length=length).double()
        assert torch.allclose(paths.diff(dim=1).norm(dim=-1).sum(1), torch.tensor(length).double(), rtol=1e-4)


def test_no_anxiety_is_a_straight_line() -> None:
    paths = random_trajectories(10, seed=1, anxiety=0.0).double()
    assert torch.allclose(paths[:, -1].norm(dim=-1), torch.tensor(60.0).double(), rtol=1e-4)
