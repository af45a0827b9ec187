"""The gradient penalty's identity: double backward in fp64 is the truth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import KERNEL_DEVICE, NET_TOLERANCE, assert_matches
from deblurgan import losses, ops, reference
from deblurgan.nn import Critic
from deblurgan.ops import critic_gradients

Norms = pytest.mark.parametrize("norm", ["sample", "pixel"])
SHAPE = (3, 3, 35, 42)


def some_critic(width: int = 4, layers: int = 3, pad: int = 2, *, seed: int = 0) -> Critic:
    """In fp64, its gradient neither tiny nor huge and its biases not zero."""
    torch.manual_seed(seed)
    critic = Critic(width, layers, pad).double()
    with torch.no_grad():
        for conv in critic.convs:
            conv.weight.mul_(4)
            conv.bias.normal_(0, 0.1)
    return critic


def pictures(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def parameters(critic: Critic) -> list[Tensor]:
    """Those that the penalty has a gradient by."""
    return [*(conv.weight for conv in critic.convs), critic.convs[0].bias]


def arguments(critic: Critic) -> dict[str, Any]:
    *weights, bias = (p.detach() for p in parameters(critic))
    return {"weights": weights, "bias": bias, "padding": critic.convs[0].padding[0]}


def at(critic: Callable[[Tensor], Tensor], x: Tensor, **options: Any) -> Tensor:
    """The loss at x itself."""
    return losses.gradient_penalty(critic, x, x, alpha=x.new_ones(1), **options)


def twice(critic: Critic, x: Tensor, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients by double backward."""
    value = at(critic, x, form="double", **options)
    return value.detach(), list(torch.autograd.grad(value, parameters(critic)))


def assert_all_match(got: list[Tensor], wanted: list[Tensor], **options: Any) -> None:
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert_matches(a, b, name=f"gradient {i} of {len(wanted)}", **options)


@pytest.fixture(params=["plain torch", "kernels"])
def path(request: pytest.FixtureRequest) -> torch.device:
    """Where penalties that are not fp64 take this path."""
    if request.param == "plain torch":
        return torch.device("cpu")
    request.getfixturevalue("kernels")
    return KERNEL_DEVICE


@Norms
@pytest.mark.parametrize("pad", [1, 2])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 33, 32)], ids=str)
def test_identity_is_double_backward(shape: tuple[int, ...], layers: int, pad: int, norm: losses.Norm) -> None:
    critic, x = some_critic(layers=layers, pad=pad), pictures(*shape)
    value, gradients = twice(critic, x, norm=norm, weight=3.0)
    got, of_weights, of_bias = critic_gradients.penalty_gradients(**arguments(critic), x=x, norm=norm, weight=3.0)
    assert_matches(got, value)
    assert_all_match([*of_weights, of_bias], gradients)
    assert_matches(critic_gradients.penalty_value(**arguments(critic), x=x, norm=norm, weight=3.0), value)


@Norms
def test_other_biases_have_no_gradient(norm: losses.Norm) -> None:
    critic, x = some_critic(), pictures(*SHAPE)
    value = at(critic, x, form="double", norm=norm)
    *idle, last = torch.autograd.grad(value, [conv.bias for conv in critic.convs[1:]], allow_unused=True)
    scale = max(float(g.norm()) for g in twice(critic, x, norm=norm)[1])
    assert last is None and all(float(g.norm()) < 1e-12 * scale for g in idle)


@Norms
def test_against_fp64(norm: losses.Norm, path: torch.device, poisoned: None) -> None:
    critic, x = some_critic().to(path), pictures(*SHAPE).to(path)
    value, gradients = twice(critic, x, norm=norm)
    single = copy.deepcopy(critic).float()
    got, of_weights, of_bias = critic_gradients.penalty_gradients(**arguments(single), x=x.float(), norm=norm)
    assert got.dtype == of_bias.dtype == torch.float32
    assert_matches(got, value)
    assert_all_match([*of_weights, of_bias], gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@Norms
def test_half_convolutions_err_as_double_backward_does(
    norm: losses.Norm, dtype: torch.dtype, path: torch.device
) -> None:
    critic, x = some_critic(8).to(path), pictures(*SHAPE).to(path)
    wanted = torch.cat([g.flatten() for g in twice(critic, x, norm=norm)[1]])
    single = copy.deepcopy(critic).float()
    with torch.autocast(path.type, dtype):
        _, native = twice(single, x.float(), norm=norm)
    _, of_weights, of_bias = critic_gradients.penalty_gradients(
        **arguments(single), x=x.float(), norm=norm, dtype=dtype
    )
    got, peer = (torch.cat([g.double().flatten() for g in each]) for each in ([*of_weights, of_bias], native))
    assert float((got - wanted).norm()) <= 2 * float((peer - wanted).norm()) <= 0.4 * float(wanted.norm())


def test_a_flat_picture() -> None:
    """Planes with hardly any deviation, where InstanceNorm's second derivative is largest."""
    critic, x = some_critic(), 1e-3 * pictures(*SHAPE)
    x[1] = 0.5
    _, gradients = twice(critic, x)
    _, of_weights, of_bias = critic_gradients.penalty_gradients(**arguments(critic), x=x)
    assert_all_match([*of_weights, of_bias], gradients, table=NET_TOLERANCE)


def test_statistics_are_those_of_the_reference() -> None:
    constant = torch.full((1, 2, 33, 33), 0.3)
    assert (critic_gradients.PlainNormAct.make(constant)[0] == 0).all()
    x = pictures(2, 3, 9, 11)
    large = x.float() + 1000
    wanted = reference.norm_act(large.double(), act="leaky_relu")
    assert_matches(critic_gradients.PlainNormAct.make(large)[0], wanted)


@Norms
def test_no_gradient_is_a_penalty_without_nan(norm: losses.Norm, path: torch.device) -> None:
    critic = some_critic().float().to(path)
    for conv in critic.convs:
        nn.init.zeros_(conv.weight)
    x = pictures(*SHAPE).float().to(path)
    value, of_weights, of_bias = critic_gradients.penalty_gradients(**arguments(critic), x=x, norm=norm)
    assert float(value) == 10.0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in (*of_weights, of_bias))


@Norms
def test_a_critic_s_update_in_one_pass(norm: losses.Norm, path: torch.device, poisoned: None) -> None:
    critic = some_critic().to(path)
    given = {name: pictures(*SHAPE, seed=seed).to(path) for seed, name in enumerate(("sharp", "restored", "x"))}
    value = at(critic, given["x"], form="double", norm=norm)
    loss = losses.critic_loss(critic(given["sharp"]), critic(given["restored"]))
    gradients = torch.autograd.grad(loss + value, parameters(critic))
    single = {name: x.float() for name, x in given.items()}
    got_loss, got_value, of_weights, of_bias = critic_gradients.critic_gradients(
        **arguments(critic.float()), **single, norm=norm
    )
    assert_matches(got_loss, loss)
    assert_matches(got_value, value)
    assert_all_match([*of_weights, of_bias], list(gradients))


@Norms
def test_the_loss_takes_the_identity(norm: losses.Norm, poisoned: None) -> None:
    critic, x = some_critic(), pictures(*SHAPE)
    value, gradients = twice(critic, x, norm=norm)
    got = at(critic, x, norm=norm)
    assert got.grad_fn is not None and "gradient_penalty" in got.grad_fn.name()
    assert_matches(got, value)
    assert_all_match(list(torch.autograd.grad(-2 * got, parameters(critic))), [-2 * g for g in gradients])


def test_only_what_is_asked_for() -> None:
    critic, x = some_critic(), pictures(*SHAPE)
    value, gradients = twice(critic, x)
    critic.requires_grad_(False)
    critic.convs[1].weight.requires_grad_()
    at(critic, x).backward()
    assert critic.convs[1].weight.grad is not None and critic.convs[0].weight.grad is None
    assert_matches(critic.convs[1].weight.grad, gradients[1])
    for form in ("auto", "double"):
        with torch.no_grad():
            got = at(critic, x, form=form)
        assert not got.requires_grad
        assert_matches(got, value)
    critic.requires_grad_(False)
    assert not at(critic, x).requires_grad


def test_autocast_chooses_the_convolutions_type() -> None:
    critic, x = some_critic().float(), pictures(*SHAPE).float()
    value, of_weights, of_bias = critic_gradients.penalty_gradients(**arguments(critic), x=x, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = at(critic, x)
        halves = at(critic, x.bfloat16())
        with torch.no_grad():
            assert torch.equal(at(critic, x), value)
    assert torch.equal(got, value) and halves.dtype == torch.float32
    for a, b in zip(torch.autograd.grad(got, parameters(critic)), [*of_weights, of_bias], strict=True):
        assert torch.equal(a, b)
    wanted = at(critic.double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(at(critic, x.double()), wanted)


class Mine(Critic):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


def hooked(critic: Critic) -> Callable[[Tensor], Tensor]:
    critic.convs[1].register_forward_hook(lambda module, given, y: y * y)
    return critic


def wrapped(critic: Critic) -> Callable[[Tensor], Tensor]:
    return nn.Sequential(critic, nn.Softplus())


def parametrized(critic: Critic) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(2)
    for conv in critic.convs:
        nn.utils.parametrizations.spectral_norm(conv, n_power_iterations=15)
    return critic.eval()


def another_stride(critic: Critic) -> Callable[[Tensor], Tensor]:
    critic.convs[0].stride = (1, 1)
    return critic


def subclass(critic: Critic) -> Callable[[Tensor], Tensor]:
    mine = Mine(4).double()
    mine.load_state_dict(critic.state_dict())
    return mine


@pytest.mark.parametrize("change", [hooked, wrapped, parametrized, another_stride, subclass])
def test_any_other_critic_goes_by_double_backward(change: Callable[[Critic], Callable[[Tensor], Tensor]]) -> None:
    critic, x = change(some_critic()), pictures(2, 3, 16, 18)
    given = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(critic(given).sum(), given)
    got = at(critic, x)
    assert got.grad_fn is not None and "gradient_penalty" not in got.grad_fn.name()
    assert_matches(got, 10 * (g.flatten(1).norm(dim=1) - 1).square().mean())


def test_a_second_differentiation_is_refused_with_advice() -> None:
    critic, x = some_critic(), pictures(*SHAPE)
    with pytest.raises(RuntimeError, match=r"differentiable once; .* form='double'"):
        torch.autograd.grad(at(critic, x), parameters(critic), create_graph=True)
    (first, *_) = torch.autograd.grad(at(critic, x, form="double"), parameters(critic), create_graph=True)
    assert first.requires_grad


@Norms
def test_opcheck(norm: losses.Norm) -> None:
    critic = some_critic(2, layers=2).float()
    *weights, bias = parameters(critic)
    x = pictures(2, 3, 17, 20).float()
    torch.library.opcheck(torch.ops.deblurgan.gradient_penalty.default, (x, weights, bias, 2, norm, 3.0, None))


def test_compile_sees_the_penalty_whole(path: torch.device) -> None:
    critic, x = some_critic(2, layers=2), pictures(2, 3, 17, 20)
    given = {**arguments(critic), "x": x}
    _, wanted, of_bias = critic_gradients.penalty_gradients(**given)
    _, got, got_of_bias = torch.compile(critic_gradients.penalty_gradients, fullgraph=True, backend="aot_eager")(
        **given
    )
    assert_all_match([*got, got_of_bias], [*wanted, of_bias])
    value = torch.compile(at, fullgraph=True, backend="aot_eager")(critic, x)
    assert_all_match(list(torch.autograd.grad(value, parameters(critic))), [*wanted, of_bias])


def test_gradients_are_laid_out_as_the_weights() -> None:
    critic, x = some_critic(), pictures(*SHAPE)
    _, plain, _ = critic_gradients.penalty_gradients(**arguments(critic), x=x)
    critic.to(memory_format=torch.channels_last)
    _, last, _ = critic_gradients.penalty_gradients(
        **arguments(critic), x=x.contiguous(memory_format=torch.channels_last)
    )
    assert all(g.is_contiguous() for g in plain)
    assert all(g.is_contiguous(memory_format=torch.channels_last) for g in last)
    assert_all_match(last, plain)


X, W, B = (
    torch.rand(2, 3, 16, 16),
    [torch.rand(4, 3, 4, 4), torch.rand(4, 4, 4, 4), torch.rand(1, 4, 4, 4)],
    torch.rand(4),
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.gradient_penalty(X[0], W, B, 2, "sample", 1.0, None), r"x must be \[n, c, h, w\], got"),
        (
            lambda: ops.gradient_penalty(X, W[:2], B, 2, "sample", 1.0, None),
            "weights must be of 3 convolutions or more",
        ),
        (lambda: ops.gradient_penalty(X, W[1:] + W[:1], B, 2, "sample", 1.0, None), r"with c = 3, got \(4, 4, 4, 4\)"),
        (lambda: ops.gradient_penalty(X, W[:2] + W[1:2], B, 2, "sample", 1.0, None), "weights must end in one channel"),
        (lambda: ops.gradient_penalty(X.half(), W, B, 2, "sample", 1.0, None), "weight must be torch.float16 on cpu"),
        (lambda: ops.gradient_penalty(X, W, B[:3], 2, "sample", 1.0, None), r"bias must be \[4\], got \(3,\)"),
        (lambda: ops.gradient_penalty(X, W, B, 3, "sample", 1.0, None), "padding must be 1 or 2, got 3"),
        (
            lambda: ops.gradient_penalty(X, W, B, 2, "batch", 1.0, None),
            "norm must be one of sample, pixel, got 'batch'",
        ),
        (lambda: ops.gradient_penalty(X, W, B, 2, "sample", 1.0, torch.int8), "dtype must be a floating-point type"),
        (
            lambda: ops.gradient_penalty(X.clone().requires_grad_(), W, B, 2, "sample", 1.0, None),
            "x must not require a gradient",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
