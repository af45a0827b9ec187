"""MotionBlur: what it draws for which picture, its options, copies, processes and canvases."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from blur_cases import (
    ONE,
    picture,
    same,
)
from scipy.stats import kstest

from deblurgan import ops
from deblurgan.blur import (
    MotionBlur,
    apply_psf,
    random_trajectories,
    random_windows,
    rasterize_psf,
)


def test_same_index_gives_the_same_kernel_in_any_batch() -> None:
    whole = MotionBlur().psf(12, seed=9)
    parts = [MotionBlur().psf(n, seed=9, index=first) for first, n in ((0, 5), (5, 1), (6, 6))]
    assert torch.equal(whole, torch.cat(parts))


def test_other_seeds_and_indices_give_other_kernels() -> None:
    kernels = [MotionBlur().psf(1, seed=seed, index=index) for seed in (0, 1, 2**40) for index in (0, 1, 2**33, 2**62)]
    for i, a in enumerate(kernels):
        for b in kernels[:i]:
            assert not torch.equal(a, b)


def test_mean_brightness_is_kept() -> None:
    x = torch.randint(0, 256, (8, 3, 128, 128), dtype=torch.uint8)
    y = MotionBlur(exposure=1.0)(x, seed=5, index=0)
    assert (y.double().mean((1, 2, 3)) - x.double().mean((1, 2, 3))).abs().max() < 0.5


def test_empty_batches() -> None:
    assert random_trajectories(0, seed=1).shape == (0, 2000, 2)
    assert MotionBlur().psf(0).shape == (0, 65, 65)
    assert MotionBlur()(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    for padding in ("reflect", "replicate", "zero"):
        for size in ((0, 8), (8, 0), (0, 0)):
            assert MotionBlur(padding=padding)(torch.zeros(2, 3, *size), index=0).shape == (2, 3, *size)


def test_module_numbers_pictures_as_they_come() -> None:
    x = torch.rand(3, 3, 16, 16)
    blur = MotionBlur(seed=7)
    first, second = blur(x), blur(x)
    assert torch.equal(first, MotionBlur(seed=7)(x, index=0))
    assert torch.equal(second, MotionBlur(seed=7)(x, index=3))
    assert torch.equal(blur(x[0], index=2), MotionBlur(seed=7)(x[:1], index=2)[0])


def test_module_replays_a_psf_and_takes_a_generator() -> None:
    x = torch.rand(2, 3, 16, 16)
    y, psf = MotionBlur(seed=1)(x, return_psf=True)
    assert torch.equal(MotionBlur(seed=2)(x, psf=psf), y)
    draws = [MotionBlur()(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.nn.Sequential(MotionBlur(seed=1))(x), y)


def test_probability_and_one_kernel_for_a_batch() -> None:
    x = torch.rand(1, 1, 20, 20).expand(400, -1, -1, -1)
    same = (MotionBlur(p=0.3, exposure=1.0)(x, index=0) == x).flatten(1).all(1)
    assert 0.6 < same.double().mean() < 0.8
    assert torch.equal(MotionBlur(p=0.0)(x), x)
    psf = MotionBlur(same_on_batch=True).psf(5)
    assert (psf == psf[:1]).all()


@pytest.mark.parametrize("mode", ["centered", "released"])
@pytest.mark.parametrize("length", [1.0, 7.5, 25.0, 60.0, 100.0])
def test_default_canvas_holds_every_path(length: float, mode: str) -> None:
    blur = MotionBlur(length=length, anxiety=(0.0, 0.01), exposure=1.0, mode=mode)
    assert blur.psf(50, seed=1).isfinite().all()
    if (length, mode) == (60.0, "released"):
        assert blur.size == 64  # the released canvas, one px short of a straight path; no released anxiety draws one
        return
    turns = torch.arange(16) * (torch.pi / 8)
    straight = torch.linspace(0, length, 2000)[:, None] * torch.stack([turns.cos(), turns.sin()], 1)[:, None]
    assert rasterize_psf(straight, size=blur.size, mode=mode).isfinite().all()


def test_loader_workers() -> None:
    """A named draw is the same in every process; the module's own draws never repeat, whatever the worker and epoch."""
    program = (
        "import torch; from deblurgan.blur import MotionBlur\n"
        "class Named(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 6\n"
        "    def __getitem__(self, i): return MotionBlur().psf(1, seed=3, index=i)[0]\n"
        "class Own(torch.utils.data.Dataset):\n"
        "    def __init__(self, seed): self.blur = MotionBlur(length=8.0, exposure=1.0, seed=seed)\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return self.blur(torch.zeros(1, 4, 4), return_psf=True)[1][0]\n"
        "whole = MotionBlur().psf(6, seed=3)\n"
        "for workers in (0, 2):\n"
        "    loader = torch.utils.data.DataLoader(Named(), batch_size=3, num_workers=workers)\n"
        "    assert torch.equal(torch.cat(list(loader)), whole), workers\n"
        "for seed in (0, None):\n"
        "    loader = torch.utils.data.DataLoader(Own(seed), batch_size=None, num_workers=2)\n"
        "    kernels = [psf for epoch in range(2) for psf in loader]\n"
        "    assert len({psf.numpy().tobytes() for psf in kernels}) == 8, seed\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_module_passes_its_options_on() -> None:
    x = picture(4, 3, 40, 50, dtype=torch.uint8)
    blur = MotionBlur(gamma=2.2, noise=(0.01, 0.1), padding="replicate", seed=5)
    windows = random_windows(4, picture=(40, 50), size=(20, 30), seed=1)
    call: dict[str, Any] = {"windows": windows, "size": (20, 30), "signed": torch.float16}
    y, psf = blur(x, index=6, return_psf=True, **call)
    assert same(psf, blur.psf(4, index=6))
    uniform = ops.uniforms(4, seed=5, first=6)[:, 3]
    noise = 0.01 + 0.09 * uniform
    wanted = apply_psf(x, psf, gamma=2.2, padding="replicate", noise=noise, seed=5, first=6, **call)
    assert same(y, wanted)
    one = blur(x[2], index=8, windows=windows[2:3], size=(20, 30), signed=torch.float16)
    assert same(one, y[2])


def test_module_draws_noise_from_its_range() -> None:
    flat = torch.full((200, 3, 32, 32), 0.5)
    for low, high in ((0.05, 0.05), (0.02, 0.2)):
        blur = MotionBlur(noise=low if low == high else (low, high), seed=1)
        deviation = (blur(flat, psf=ONE).double() - 0.5).flatten(1).std(1)
        if low == high:
            assert (deviation / low - 1).abs().max() < 5 / math.sqrt(2 * 3 * 32 * 32)
        else:
            assert kstest((deviation - low).numpy() / (high - low), "uniform").pvalue > 0.001


def test_counter_counts_pictures_that_are_drawn() -> None:
    x, blur = torch.rand(3, 1, 8, 8), MotionBlur(seed=4, length=8.0)
    blur(x)
    assert blur.counter.tolist() == [4, 3]
    blur(x[0])
    assert blur.counter.tolist() == [4, 4]
    blur(x, index=70)
    blur(x, psf=ONE)
    blur(x, generator=torch.Generator().manual_seed(1))
    assert blur.counter.tolist() == [4, 4]
    noisy = MotionBlur(noise=0.1, length=8.0, seed=0)
    noisy(x, psf=ONE)
    assert noisy.counter.tolist() == [0, 3]


def test_generator_draws_noise_too() -> None:
    x, blur = torch.rand(2, 3, 16, 16), MotionBlur(noise=0.1, length=8.0)
    draws = [blur(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert same(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(blur(x, generator=generator), blur(x, generator=generator))


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda blur: pickle.loads(pickle.dumps(blur)),
        lambda blur: blur.to("cpu"),
        lambda blur: blur.double(),
        lambda blur: blur.half(),
        lambda blur: blur.to(torch.bfloat16),
    ],
    ids=["deepcopy", "pickle", "cpu", "double", "half", "bfloat16"],
)
def test_a_copied_or_moved_module_goes_on_drawing(copied: Callable[[MotionBlur], MotionBlur]) -> None:
    x = torch.rand(8, 3, 16, 16)
    blur = MotionBlur(seed=2, noise=(0.0, 0.1), gamma=2.2)
    blur(x)
    other = copied(blur)
    assert other.state_dict() == {}
    assert same(other(x), MotionBlur(seed=2, noise=(0.0, 0.1), gamma=2.2)(x, index=8))


def test_one_kernel_for_a_batch_blurs_all_of_it_or_none() -> None:
    blur = MotionBlur(p=0.3, same_on_batch=True, length=8.0, exposure=1.0)
    batches = torch.stack([blur.psf(3, index=3 * i) for i in range(200)])
    assert (batches == batches[:, :1]).all()
    impulse = torch.zeros(blur.size, blur.size)
    impulse[blur.size // 2, blur.size // 2] = 1
    sharp = (batches[:, 0] == impulse).all(2).all(1)
    assert 0.6 < sharp.double().mean() < 0.8
    x = torch.rand(3, 1, 20, 20)
    for i in range(10):
        assert torch.equal(blur(x, index=3 * i), x) == bool(sharp[i])


def test_without_a_seed_torchs_generator_draws() -> None:
    x, psfs = torch.rand(2, 1, 8, 8), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        one, other = MotionBlur(length=8.0), MotionBlur(length=8.0)
        psfs.append([blur(x, return_psf=True)[1] for blur in (one, one, other)] + [one.psf(2), other.psf(2)])
    assert all(map(same, psfs[0], psfs[1]))
    kernels = torch.cat(psfs[1] + psfs[2])
    assert len({kernel.numpy().tobytes() for kernel in kernels}) == len(kernels)
    assert one.counter.tolist() == [0, 0]


def test_an_index_or_seed_names_a_draw_whatever_torchs_generator_does() -> None:
    x, blur = torch.rand(2, 1, 8, 8), MotionBlur(length=8.0)
    state = torch.get_rng_state()
    assert same(blur(x, index=3), MotionBlur(length=8.0, seed=0)(x, index=3))
    assert same(blur.psf(2, index=3), blur.psf(2, seed=0, index=3))
    assert same(blur.psf(2, seed=5), MotionBlur(length=8.0, seed=5).psf(2))
    assert same(blur(x, seed=5), MotionBlur(length=8.0, seed=5)(x))
    assert same(blur(x, seed=5), blur(x, seed=5, index=2))  # counted on
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_and_workers_draw_other_blur_from_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    for rank in ("0", "1", "2", "3000"):
        monkeypatch.setenv("RANK", rank)  # as torchrun sets it
        torch.manual_seed(1)
        drawn[rank] = MotionBlur(length=8.0).psf(1).numpy().tobytes()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    torch.manual_seed(1)
    assert MotionBlur(length=8.0).psf(1).numpy().tobytes() == drawn["1"]
    assert len(set(drawn.values())) == 4


def test_compiles_into_one_graph() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fresh = MotionBlur(length=8.0, steps=50)
            self.counted = MotionBlur(length=8.0, steps=50, seed=3, noise=0.1, realism="camera")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            blurs = (self.fresh, self.fresh, self.counted, self.counted)
            return torch.stack([*(blur(x) for blur in blurs), self.fresh(x, index=5)])

    x, plain = picture(2, 3, 16, 16), Both()
    compiled = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = plain(x)
        torch.manual_seed(seed)
        assert same(compiled(x), wanted)
        assert not torch.equal(wanted[0], wanted[1]) and not torch.equal(wanted[2], wanted[3])
