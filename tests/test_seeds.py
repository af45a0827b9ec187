"""Seeds of random numbers."""

from __future__ import annotations

from deblurgan.data import RngStream, derived_seed


def test_streams_never_share_a_seed() -> None:
    seeds = [
        derived_seed(rng_stream, seed, *rest)
        for rng_stream in RngStream
        for seed in (0, 1, 7, 2**32)
        for rest in ((0,), (5,))
    ]
    seeds += [derived_seed(RngStream.CROP, seed, e, i) for seed, e, i in ((7, 3, 5), (7 + 3 * 2**32, 5, 0), (7, 5, 3))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
