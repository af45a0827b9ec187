"""Dropout masks: the reference's, of the right share, each picture's and RNG stream's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deblurgan import ops, reference

Arguments = tuple[Any, ...]

MASKS = [[2, 12, 3, 5], [3, 5, 7, 9], [1, 3, 1, 1], [2, 64, 33, 41], [1, 96, 40, 61], [0, 4, 2, 2], [2, 4, 0, 3]]


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1 - 2**-40])
def test_dropout_mask_is_the_reference_s(shape: list[int], p: float, device: torch.device) -> None:
    for seed, first, rng_stream in ((0, 0, 0), (2**63 - 1, 2**63 - 5, 3), (7, 2**33, 8)):
        got = ops.dropout_mask(shape, p, torch.tensor([seed, first], device=device), rng_stream)
        assert got.dtype == torch.bool
        assert got.device.type == device.type
        assert torch.equal(got.cpu(), reference.dropout_mask(shape, p, seed=seed, first=first, rng_stream=rng_stream))


def test_dropout_mask_keeps_its_share() -> None:
    for p in (0.1, 0.5, 0.9):
        mask = ops.dropout_mask([3, 64, 64, 61], p, torch.tensor([11, 0]))
        deviation = (p * (1 - p) / mask.numel()) ** 0.5
        assert abs(float(mask.double().mean()) - (1 - p)) < 5 * deviation
        channels = mask.double().mean((0, 2, 3))
        assert ((channels - (1 - p)).abs() < 5 * deviation * 8).all()  # of 64, each with a 64th of the elements


def test_dropout_mask_depends_on_the_picture_and_the_rng_stream_alone() -> None:
    both = ops.dropout_mask([2, 8, 5, 6], 0.5, torch.tensor([1, 40]), 2)
    alone = ops.dropout_mask([1, 8, 5, 6], 0.5, torch.tensor([1, 41]), 2)
    assert torch.equal(both[1:], alone)
    for other in (([2, 40], 2), ([1, 41], 2), ([1, 40], 3)):
        assert not torch.equal(both, ops.dropout_mask([2, 8, 5, 6], 0.5, torch.tensor(other[0]), other[1]))


def test_dropout_mask_passes_opcheck(device: torch.device) -> None:
    arguments = ([2, 12, 3, 5], 0.5, torch.tensor([1, 0], device=device), 1)
    torch.library.opcheck(torch.ops.deblurgan.dropout_mask.default, arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([1, 2, 3], 0.5, torch.tensor([0, 0])), "shape must be"),
        (([1, 2**12, 2**12, 2**11], 0.5, torch.tensor([0, 0])), "at most 2.34 elements"),
        (([1, 2, 3, 4], 1.0, torch.tensor([0, 0])), r"p must be in \[0, 1\), got 1.0"),
        (([1, 2, 3, 4], 0.5, torch.tensor([0, 0]), -1), r"rng_stream must be in \[0, 2\^31\), got -1"),
        (([1, 2, 3, 4], 0.5, torch.tensor([0])), r"counter must be int64 \[2\]"),
    ],
    ids=["shape", "too large", "p", "rng_stream", "counter"],
)
def test_dropout_mask_refuses(arguments: Arguments, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ops.dropout_mask(*arguments)
