"""The blur on a GPU against the CPU: the same draws, nothing waited for, graphs, streams and devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from blur_cases import (
    BLURRED,
    COUNTER,
    DRAWN,
    K,
    W,
    X,
    corners,
    picture,
    same,
)
from torch import Tensor

from conftest import assert_matches
from deblurgan import ops
from deblurgan.blur import (
    Draws,
    MotionBlur,
    apply_psf,
    random_trajectories,
    rasterize_psf,
)


@pytest.fixture
def cuda() -> torch.device:
    """A GPU that csrc/ works on."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if not ops.is_native(torch.device("cuda")):
        pytest.skip("deblurgan was built without CUDA")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.gpu
@pytest.mark.parametrize("name", DRAWN)
def test_gpu_draws_the_cpu_s_bytes(name: str, cuda: torch.device, poisoned: None) -> None:
    n, drawn = DRAWN[name]
    wanted = drawn(n, Draws(3, 2**33), "cpu")
    assert same(drawn(n, Draws(3, 2**33), "cuda").cpu(), wanted)
    assert same(drawn(n, Draws(counter=torch.tensor([3, 2**33], device=cuda)), "cuda").cpu(), wanted)


@pytest.mark.gpu
def test_gpu_draws_whole_kernels_as_the_cpu_does(cuda: torch.device) -> None:
    for mode in ("centered", "released"):
        blur = MotionBlur(mode=mode, p=0.8)
        wanted = blur.psf(300, seed=9, index=5)
        assert same(blur.psf(300, seed=9, index=5, device="cuda").cpu(), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("name", BLURRED)
def test_gpu_noise_by_counter(name: str, cuda: torch.device) -> None:
    """To the last places: a GPU multiplies and adds in one rounding."""
    n, drawn = BLURRED[name]
    wanted = drawn(n, Draws(3, 2**33), "cpu")
    for draws in (Draws(3, 2**33), Draws(counter=torch.tensor([3, 2**33], device=cuda))):
        assert_matches(drawn(n, draws, "cuda"), wanted)


@pytest.mark.gpu
def test_gpu_names_a_path_that_leaves_the_canvas(cuda: torch.device) -> None:
    paths = random_trajectories(4, seed=0, anxiety=0.0, device=cuda)
    assert ops.rasterize_psf(paths, torch.ones(4, device=cuda), 33, "centered").isnan().all()
    for path in (paths, torch.full_like(paths, math.nan)):
        with pytest.raises(ValueError, match="4 of 4 paths leave a canvas of 33"):
            rasterize_psf(path, size=33)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "released", "p": 0.5}, {"same_on_batch": True, "noise": (0.01, 0.1), "realism": "camera", "jpeg": 0}],
)
def test_module_never_waits_for_the_gpu(options: dict[str, Any], cuda: torch.device) -> None:
    x = picture(4, 3, 64, 64, dtype=torch.uint8)
    blur, wanted = MotionBlur(**options, seed=0).cuda(), MotionBlur(**options, seed=0)
    moved, windows = x.to(cuda), corners(4, (64, 64), (32, 32))
    call: dict[str, Any] = {"size": (32, 32), "signed": torch.float32}
    there = windows.to(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = [blur(moved, windows=there, **call) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for y in got:
        assert_matches(y, wanted(x, windows=windows, **call))


@pytest.mark.gpu
def test_each_replay_of_a_graph_draws_fresh_blur(cuda: torch.device) -> None:
    options: dict[str, Any] = {"seed": 5, "noise": (0.0, 0.05), "realism": "camera", "jpeg": 0, "p": 0.9}
    x = (1.3 * picture(4, 3, 48, 40)).clamp(max=1)
    moved = x.to(cuda)
    MotionBlur(**options).cuda()(moved)  # loads the kernels, which a capture cannot
    blur, graph = MotionBlur(**options).cuda(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, psf = blur(moved, return_psf=True)
    replays = []
    for _ in range(3):
        graph.replay()
        replays.append((y.cpu(), psf.cpu()))
    for i, (blurred, kernel) in enumerate(replays):
        wanted, its_kernel = MotionBlur(**options)(x, index=4 * i, return_psf=True)
        assert same(kernel, its_kernel)
        assert_matches(blurred, wanted, name=f"replay {i}")
        assert not any(torch.equal(kernel, other) for _, other in replays[:i])
    assert blur.counter.tolist() == [5, 12]


@pytest.mark.gpu
def test_without_a_seed_torchs_generator_draws_on_the_gpu_and_in_graphs(cuda: torch.device) -> None:
    x, blur = torch.zeros(2, 1, 8, 8, device=cuda), MotionBlur(length=8.0, realism="camera", jpeg=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(blur(x, return_psf=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for got, other, repeats in ((drawn[0], drawn[1], True), (drawn[0], drawn[2], False)):
        assert all(torch.equal(a, b) == repeats for a, b in zip(got, other, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, psf = blur(x, return_psf=True)
    replays = []
    for _ in range(3):
        graph.replay()
        replays.append(psf.clone())
    assert not torch.equal(replays[0], replays[1]) and not torch.equal(replays[1], replays[2])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_gpu_camera_is_that_of_the_cpu(dtype: torch.dtype, cuda: torch.device) -> None:
    x, blur = picture(3, 3, 64, 64, dtype=dtype), MotionBlur(realism="camera", seed=4)
    x[..., 20:30, 20:30] = 255 if dtype == torch.uint8 else 1
    for seed in (None, 7):
        blur.counter[1] = 5
        wanted = MotionBlur(realism="camera", seed=4)(x, index=5, seed=seed).double()
        for got in (blur(x.to(cuda), seed=seed), blur(x.to(cuda), seed=seed, index=5)):
            off = (got.cpu().double() - wanted).abs() * (1 if dtype == torch.uint8 else 255)
            assert off.mean() < 0.01  # JPEG rounds a level in the balance to either side
    assert torch.equal(deepcopy(blur).cuda()(x.to(cuda), index=5), blur(x.to(cuda), index=5))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: ops.apply_psf(x, k, "reflect", counter=COUNTER), "counter must be on cuda:., got cpu"),
        (
            lambda x, k: ops.random_trajectories(x[:, 0, 0, 0], 0, 0, 9, 1.0, COUNTER),
            "counter must be on cuda:., got cpu",
        ),
        (lambda x, k: ops.apply_psf(x, K, "reflect"), "psf must be on the picture's device cuda:., got cpu"),
        (lambda x, k: apply_psf(x, k, windows=W, size=(4, 4)), "windows must be on cuda:., got cpu"),
        (lambda x, k: apply_psf(x, k, noise=torch.zeros(2)), "noise must be on cuda:., got cpu"),
        (lambda x, k: apply_psf(x, k, highlights=torch.zeros(2)), "highlights must be on cuda:., got cpu"),
    ],
)
def test_gpu_names_what_is_on_another_device(
    call: Callable[[Tensor, Tensor], Tensor], message: str, cuda: torch.device
) -> None:
    with pytest.raises(ValueError, match=message):
        call(X.to(cuda), K.to(cuda))


@pytest.mark.gpu
def test_a_module_moved_to_the_gpu_and_back_goes_on_drawing(cuda: torch.device) -> None:
    x, blur = picture(2, 3, 20, 20), MotionBlur(seed=3)
    blur(x)
    assert_matches(blur.cuda()(x.to(cuda)), MotionBlur(seed=3)(x, index=2))
    assert same(blur.cpu()(x), MotionBlur(seed=3)(x, index=4))
    assert_matches(MotionBlur(seed=3)(x.to(cuda)), MotionBlur(seed=3)(x, index=0), name="module left on the CPU")


@pytest.mark.gpu
def test_another_stream(cuda: torch.device) -> None:
    """The sleep would have work on the wrong stream read the picture before it is there."""
    x, stream = picture(2, 3, 64, 64), torch.cuda.Stream()
    blur = MotionBlur(seed=3, noise=0.1).cuda()
    blur(x.to(cuda), index=0)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        late = torch.zeros(2, 3, 64, 64, device=cuda)
        torch.cuda._sleep(50_000_000)
        late.copy_(x.pin_memory(), non_blocking=True)
        y = blur(late, index=6)
    stream.synchronize()
    assert_matches(y, MotionBlur(seed=3, noise=0.1)(x, index=6))


@pytest.mark.gpu
def test_a_second_device(cuda: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    second = torch.device("cuda", 1 - torch.cuda.current_device())
    x, blur = picture(2, 3, 30, 30), MotionBlur(seed=3, noise=0.1).to(second)
    y, psf = blur(x.to(second), return_psf=True)
    wanted, kernel = MotionBlur(seed=3, noise=0.1)(x, return_psf=True)
    assert (y.device, psf.device, torch.cuda.current_device()) == (second, second, cuda.index)
    assert same(psf.cpu(), kernel)
    assert_matches(y, wanted)
