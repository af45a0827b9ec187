"""What csrc/ does in training on a CPU: norms, borders and their derivatives, against plain torch in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.config import Preset
from deblurgan.nn import Backend, Generator, trained_parameters
from deblurgan.ops import native_norm
from deblurgan.ops.critic_gradients import PlainNormAct
from deblurgan.ops.native_norm import NativeNormAct

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3}
SHAPE = (2, 24, 19, 33)  # more pixels than a block has, channels beside whole registers


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def off(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach(), wanted.detach()
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norm_and_its_derivatives(dtype: torch.dtype) -> None:
    z, v, t, e = (drawn(*SHAPE, dtype=dtype, seed=seed) for seed in range(4))
    for picture in (z, v, t, e):
        picture.add_(0.3)  # so that no mean is nearly 0
    made = []
    for kind, wide in ((NativeNormAct, False), (PlainNormAct, True)):
        y, norm = kind.make(z.double() if wide else z)
        signal, tangent = norm.signal(e.double() if wide else e), norm.tangent(t.double() if wide else t)
        made.append([y, signal[0], tangent[0], norm.adjoint(v.double() if wide else v, *signal, *tangent)])
    for found, wanted in zip(*made, strict=True):
        assert found.dtype == dtype
        assert off(found, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "none"])
def test_norm_act_is_the_reference(act: reference.Act) -> None:
    x, residual, grad = (drawn(*SHAPE, seed=seed).requires_grad_() for seed in range(3))
    wide, wide_residual = (part.detach().double().requires_grad_() for part in (x, residual))
    y, wanted = native_norm.norm_act(x, act, residual), reference.norm_act(wide, act=act, residual=wide_residual)
    assert off(y, wanted) < 1e-6
    of_wanted = torch.autograd.grad(wanted, (wide, wide_residual), grad.double())
    for found, gradient in zip(torch.autograd.grad(y, (x, residual), grad), of_wanted, strict=True):
        assert off(found, gradient) < 1e-6


@pytest.mark.parametrize(("side", "border"), [(2, 1), (4, 3), (9, 3)])
def test_border_and_its_gradient(side: int, border: int) -> None:
    x = drawn(2, 3, side, side + 5).requires_grad_()
    y, wanted = native_norm.reflect_pad(x, border), reference.pad(x, border, "reflect")
    assert torch.equal(y, wanted)
    grad = drawn(*y.shape, seed=1)
    found, of_wanted = (torch.autograd.grad(made, x, grad)[0] for made in (y, wanted))
    assert off(found, of_wanted) < 1e-6


def test_a_constant_plane_stays_nothing() -> None:
    y, norm = NativeNormAct.make(torch.full((1, 3, 20, 20), 0.1))
    assert not y.any()
    assert norm.signal(drawn(1, 3, 20, 20))[0].isfinite().all()


def test_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    z, v = (drawn(3, 64, 96, 96, seed=seed) for seed in range(2))
    made = []
    for threads in (1, 3):
        monkeypatch.setattr(native_norm, "THREADS", threads)
        y, norm = NativeNormAct.make(z)
        made.append((y, *norm.signal(v)))
    assert all(map(torch.equal, *made))


@pytest.mark.parametrize("preset", ["paper", "article"])
def test_generator_trains_as_the_reference_does(preset: Preset) -> None:
    torch.manual_seed(0)
    net = Generator(preset, width=8, blocks=2).train()
    x, grad = drawn(2, 3, 32, 24).clamp(-1, 1).requires_grad_(), drawn(2, 3, 32, 24, seed=1)

    def made(backend: Backend, dtype: torch.dtype) -> list[Tensor]:
        net.backend = backend
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = net(x, seed=5)
        assert y.dtype == torch.float32
        return [y.detach(), *torch.autograd.grad(y, (x, *trained_parameters(net)), grad)]

    plain = made("reference", torch.float32)
    for found, wanted in zip(made("auto", torch.float32), plain, strict=True):
        assert off(found, wanted) < 1e-5
    halves = (made(backend, torch.bfloat16) for backend in ("auto", "reference"))
    for found, usual, wanted in zip(*halves, plain, strict=True):  # as far off as autocast itself, by other roundings
        assert off(found, wanted) < 1.5 * off(usual, wanted)


def test_its_gradient_is_differentiable_once() -> None:
    net = Generator("tiny", width=4, blocks=1)
    (gradient,) = torch.autograd.grad(net(drawn(1, 3, 8, 8)).sum(), net.blocks[0].conv1.weight, create_graph=True)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="once"):
        gradient.sum().backward()


def test_layers_with_hooks_are_called() -> None:
    net, seen = Generator("tiny", width=4, blocks=1), []
    net.get_submodule("blocks.0.conv1").register_forward_hook(lambda layer, given, result: seen.append(result.shape))
    net(torch.zeros(1, 3, 16, 16))
    assert len(seen) == 1
