"""Each loss against its formula in fp64, written out again here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conftest import OP_TOLERANCE, assert_matches
from deblurgan import losses
from deblurgan.nn import Critic

pytestmark = pytest.mark.any_cpu


@pytest.fixture
def scores() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 1, 5, 5, dtype=torch.float64), torch.randn(2, 1, 5, 5, dtype=torch.float64)


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 3, 32, 24, dtype=torch.float64) * 2 - 1, torch.rand(2, 3, 32, 24, dtype=torch.float64) * 2 - 1


def test_wgan(scores: tuple[Tensor, Tensor]) -> None:
    sharp, restored = scores
    assert_matches(losses.critic_loss(sharp, restored), restored.mean() - sharp.mean())
    assert_matches(losses.generator_loss(restored), -restored.mean())


def test_lsgan(scores: tuple[Tensor, Tensor]) -> None:
    sharp, restored = scores
    squared = 0.5 * ((sharp - 1) ** 2).mean() + 0.5 * (restored**2).mean()
    absolute = 0.5 * (sharp - 1).abs().mean() + 0.5 * restored.abs().mean()
    assert_matches(losses.critic_loss(sharp, restored, gan="lsgan"), squared)
    assert_matches(losses.critic_loss(sharp, restored, gan="lsgan-l1"), absolute)
    assert_matches(losses.generator_loss(restored, gan="lsgan"), ((restored - 1) ** 2).mean())
    assert_matches(losses.generator_loss(restored, gan="lsgan-l1"), (restored - 1).abs().mean())


def test_vanilla_is_the_sigmoid_s_cross_entropy(scores: tuple[Tensor, Tensor]) -> None:
    sharp, restored = scores
    wanted = -0.5 * (torch.log(torch.sigmoid(sharp)).mean() + torch.log(1 - torch.sigmoid(restored)).mean())
    assert_matches(losses.critic_loss(sharp, restored, gan="vanilla"), wanted)
    assert_matches(losses.generator_loss(restored, gan="vanilla"), -torch.log(torch.sigmoid(restored)).mean())


@pytest.mark.parametrize("norm", ["sample", "pixel"])
def test_gradient_penalty_of_a_known_gradient(norm: losses.Norm, pictures: tuple[Tensor, Tensor]) -> None:
    """D(x) = sum w x^2 / 2 has the gradient w x."""
    sharp, restored = pictures
    w = torch.randn(1, 3, 32, 24, dtype=torch.float64)
    alpha = torch.rand(2, 1, 1, 1, dtype=torch.float64)
    got = losses.gradient_penalty(lambda x: (w * x * x).flatten(1).sum(1) / 2, sharp, restored, norm=norm, alpha=alpha)
    gradient = w * (alpha * sharp + (1 - alpha) * restored)
    length = gradient.flatten(1).norm(dim=1) if norm == "sample" else gradient.norm(dim=1)
    assert_matches(got, 10 * ((length - 1) ** 2).mean())


def test_penalties_and_their_gradients_as_their_sources_write_them(pictures: tuple[Tensor, Tensor]) -> None:
    """Gulrajani et al.: one norm a sample. Released losses.py: norm(2, dim=1), one alpha for the batch."""
    sharp, restored = pictures
    critic = Critic(width=4).double()
    alpha = torch.rand(1, 1, dtype=torch.float64)
    x = (alpha.expand(sharp.size()) * sharp + (1 - alpha.expand(sharp.size())) * restored).requires_grad_()
    scores = critic(x)
    gradients = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)[0]
    released = ((gradients.norm(2, dim=1) - 1) ** 2).mean() * 10
    textbook = ((gradients.view(2, -1).norm(2, dim=1) - 1) ** 2).mean() * 10
    weights = [conv.weight for conv in critic.convs]
    for norm, wanted in (("pixel", released), ("sample", textbook)):
        got = losses.gradient_penalty(critic, sharp, restored, norm=norm, alpha=alpha)
        assert_matches(got, wanted, name=norm)
        ours = torch.autograd.grad(got, weights)
        theirs = torch.autograd.grad(wanted, weights, retain_graph=True)
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_matches(a, b, name=f"{norm} gradient of convs.{i}.weight")


@pytest.mark.parametrize("norm", ["sample", "pixel"])
def test_zero_gradient_is_a_penalty_without_nan(norm: losses.Norm, pictures: tuple[Tensor, Tensor]) -> None:
    critic = nn.Conv2d(3, 1, 1).double()
    nn.init.zeros_(critic.weight)
    penalty = losses.gradient_penalty(critic, *pictures, norm=norm)
    penalty.backward()
    assert float(penalty.detach()) == 10.0
    assert critic.weight.grad is not None and torch.equal(critic.weight.grad, torch.zeros_like(critic.weight))


def test_alpha_is_drawn_by_sample_or_for_the_batch() -> None:
    sharp, restored = torch.ones(6, 3, 8, 8), torch.zeros(6, 3, 8, 8)
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach()[:, 0, 0, 0])
        return x.sum()

    for norm in ("sample", "pixel"):
        for _ in range(2):
            losses.gradient_penalty(critic, sharp, restored, norm=norm, generator=torch.Generator().manual_seed(3))
    assert torch.equal(seen[0], seen[1]) and len(set(seen[0].tolist())) == 6
    assert torch.equal(seen[2], seen[3]) and len(set(seen[2].tolist())) == 1


def test_penalty_reaches_neither_picture_nor_generator(pictures: tuple[Tensor, Tensor]) -> None:
    restored = pictures[1].clone().requires_grad_()
    losses.gradient_penalty(Critic(width=2).double(), pictures[0], restored).backward()
    assert restored.grad is None


def test_content_pixel_and_total_variation(pictures: tuple[Tensor, Tensor]) -> None:
    a, b = pictures
    assert_matches(losses.content(a, b), ((a - b) ** 2).sum() / a.numel())
    assert_matches(losses.pixel(a, b, kind="l1"), (a - b).abs().sum() / a.numel())
    assert_matches(losses.pixel(a, b, kind="l2"), ((a - b) ** 2).sum() / a.numel())
    down, across = (a[:, :, i:, j:] - a[:, :, : 32 - i, : 24 - j] for i, j in ((1, 0), (0, 1)))
    assert_matches(losses.total_variation(a), down.abs().mean() + across.abs().mean())


def test_pixel_losses_are_finite_for_a_perfect_picture(pictures: tuple[Tensor, Tensor]) -> None:
    for kind in ("l1", "l2"):
        restored = pictures[0].clone().requires_grad_()
        losses.pixel(restored, pictures[0], kind=kind).backward()
        assert restored.grad is not None and restored.grad.isfinite().all()


@pytest.mark.parametrize("gan", ["wgan-gp", "lsgan", "lsgan-l1", "vanilla"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_half_scores_lose_no_more_than_their_precision(
    gan: losses.Gan, dtype: torch.dtype, scores: tuple[Tensor, Tensor]
) -> None:
    got = losses.critic_loss(*(s.to(dtype) for s in scores), gan=gan)
    wanted = losses.critic_loss(*(s.to(dtype).double() for s in scores), gan=gan)
    assert abs(float(got) - float(wanted)) <= 4 * OP_TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: losses.critic_loss(x, x, gan="none"), "gan must be one of wgan-gp, lsgan, lsgan-l1, vanilla"),  # type: ignore[arg-type]
        (lambda x: losses.generator_loss(x, gan="gan"), "gan must be one of"),  # type: ignore[arg-type]
        (lambda x: losses.pixel(x, x, kind="l3"), "kind must be one of l1, l2, got 'l3'"),  # type: ignore[arg-type]
        (lambda x: losses.gradient_penalty(Critic(), x, x[:1]), "restored must have the shape of sharp"),
        (lambda x: losses.gradient_penalty(Critic(), x, x, norm="batch"), "norm must be 'sample' or 'pixel'"),  # type: ignore[arg-type]
        (lambda x: losses.gradient_penalty(Critic(), x, x, form="jvp"), "form must be 'auto' or 'double', got 'jvp'"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 3, 16, 16))
