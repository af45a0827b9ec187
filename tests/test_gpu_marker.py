"""`-m gpu` selects every test that runs kernels."""

from __future__ import annotations

import importlib

import pytest
import torch

from conftest import uses_kernels

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels.config import TileStats
from deblurgan.kernels.merge_stats import merge_stats

RUN_KERNELS = ["test_kernel_stats", "test_kernel_pack_image", "test_penalty", "test_quantization", "test_conv_grad"]


@pytest.mark.parametrize("name", RUN_KERNELS)
def test_tests_of_kernels_are_selected(name: str) -> None:
    assert uses_kernels(importlib.import_module(name))


def test_tests_of_other_things_are_not() -> None:
    assert not uses_kernels(importlib.import_module("test_schedule"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there kernels are compiled, not interpreted")
def test_a_launch_that_is_not_selected_fails() -> None:
    tiles = TileStats(torch.zeros(1, 1, 2, 16), torch.ones(1))
    with pytest.raises(AssertionError, match="-m gpu does not select this test"):
        merge_stats(tiles, torch.empty(1, 2, 16), eps=1e-5)
