"""Random draws: Philox's words, and the same bytes whatever threads, batches and way of naming them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from blur_cases import (
    ALL_DRAWN,
    same,
    threads,
)
from scipy.stats import kstest

from deblurgan import ops, reference
from deblurgan.blur import (
    Draws,
)


@pytest.mark.parametrize("name", ALL_DRAWN)
def test_same_bytes_whatever_threads_batches_and_naming(name: str) -> None:
    n, drawn = ALL_DRAWN[name]
    with threads(1):
        wanted = drawn(n, Draws(3, 2**33), "cpu")
    for count in (1, 2, 8):
        with threads(count):
            cuts = [0, n // 3, n // 3 + 1, n]
            parts = [drawn(b - a, Draws(3, 2**33 + a), "cpu") for a, b in pairwise(cuts)]
            counter = torch.tensor([3, 2**33])
            assert same(drawn(n, Draws(3, 2**33), "cpu"), wanted)
            assert same(torch.cat(parts), wanted)
            assert same(drawn(n, Draws(counter=counter), "cpu"), wanted)
            assert counter.tolist() == [3, 2**33]
    assert not same(drawn(n, Draws(4, 2**33), "cpu"), wanted)


def test_uniforms_are_philox_words() -> None:
    wanted = (reference.philox(3, 2**40 + torch.arange(1000), torch.tensor(0), 2) >> 8) * 2.0**-24
    got = ops.uniforms(1000, seed=3, first=2**40)
    assert torch.equal(got.double(), wanted.double())
    assert kstest(got.flatten().numpy(), "uniform").pvalue > 0.001


def test_numbers_that_change_from_call_to_call_compile_into_one_graph() -> None:
    drawn = torch.compile(lambda n, first: ops.uniforms(n, seed=1, first=first), fullgraph=True, backend="eager")
    for n, first in ((2, 3), (5, 2**40), (4, 0)):
        assert torch.equal(drawn(n, first), ops.uniforms(n, seed=1, first=first))
