"""Muon: its matrix, its update beside torch's own, and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conftest import relative_error
from deblurgan.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonal

SHAPES = [(8, 4, 3, 3), (8, 4, 3, 3), (40, 4, 3, 3), (6, 16, 3, 3)]  # two alike; taller than wide; wide


def weights(shapes: list[tuple[int, ...]] = SHAPES, *, seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    random = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random) * 1e-3


def with_svd(matrix: Tensor) -> Tensor:
    """Newton-Schulz on the singular values alone, in fp64: U p(...p(S / |S|)) V'."""
    a, b, c = COEFFICIENTS
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    return u @ s.diag() @ v


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 12, 7), (1, 16, 144)])
def test_orthogonal_maps_singular_values_alone(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for matrix, given in zip(matrices, orthogonal(matrices), strict=True):
        assert relative_error(given, with_svd(matrix)) < 1e-5
    assert torch.equal(orthogonal(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float32, 1e-5)], ids=["bf16", "fp32"])
def test_a_weight_s_update_is_torch_s_of_its_matrix(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.optim.Muon takes matrices alone, and rounds to bf16 by itself."""
    if dtype == torch.float32:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours = weights()
    matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in ours]
    start = [weight.detach().clone() for weight in ours]
    muon = Muon(ours, torch.tensor(0.1), dtype=dtype)
    torch_s = torch.optim.Muon(matrices, lr=0.1, weight_decay=0.0)
    for step in range(4):
        give_gradients(ours, step)
        for matrix, weight in zip(matrices, ours, strict=True):
            assert weight.grad is not None
            matrix.grad = weight.grad.flatten(1)
        muon.step()
        torch_s.step()
    for weight, matrix, before in zip(ours, matrices, start, strict=True):
        moved, wanted = (weight - before).flatten(1), matrix - before.flatten(1)
        assert relative_error(moved, wanted) < tolerance
        momentum = muon.state[weight]["momentum"].flatten(1)
        assert relative_error(momentum, torch_s.state[matrix]["momentum_buffer"]) < 1e-6


def test_weights_of_one_shape_do_not_mix() -> None:
    together, alone = weights(), weights()
    give_gradients(together, 0)
    give_gradients(alone, 0)
    Muon(together, torch.tensor(0.1)).step()
    for i, weight in enumerate(alone):
        Muon([weight], torch.tensor(0.1)).step()
        assert relative_error(together[i], weight) < 1e-6


def test_the_length_of_gradients_has_no_effect_and_their_scale_is_taken_away() -> None:
    plain, long, scaled = weights(), weights(), weights()
    optimizers = [Muon(each, torch.tensor(0.1)) for each in (plain, long, scaled)]
    for each, factor in ((plain, 1.0), (long, 1000.0), (scaled, 2.0**16)):
        give_gradients(each, 0)
        for weight in each:
            assert weight.grad is not None
            weight.grad *= factor
    optimizers[2].grad_scale = torch.tensor(2.0**16)
    for optimizer in optimizers:
        optimizer.step()
    for a, b, c in zip(plain, long, scaled, strict=True):
        assert relative_error(b, a) < 1e-6
        assert torch.equal(c, a) and torch.equal(optimizers[2].state[c]["momentum"], optimizers[0].state[a]["momentum"])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_found_inf_leaves_weights_and_momentum_as_they_were(value: float) -> None:
    parameters = weights()
    muon = Muon(parameters, torch.tensor(0.1))
    for step in range(2):
        give_gradients(parameters, step)
        muon.step()
    before = [(weight.detach().clone(), muon.state[weight]["momentum"].clone()) for weight in parameters]
    assert parameters[2].grad is not None
    parameters[2].grad[0] = value
    muon.found_inf = torch.ones(())
    muon.step()
    for weight, (value, momentum) in zip(parameters, before, strict=True):
        assert torch.equal(weight, value) and torch.equal(muon.state[weight]["momentum"], momentum)
    give_gradients(parameters, 2)
    muon.found_inf = torch.zeros(())
    muon.step()
    assert not torch.equal(parameters[2], before[2][0])


def test_channels_last_changes_nothing() -> None:
    plain, last = weights(), [nn.Parameter(w.detach().to(memory_format=torch.channels_last)) for w in weights()]
    for each in (plain, last):
        give_gradients(each, 0)
        Muon(each, torch.tensor(0.1)).step()
    for a, b in zip(plain, last, strict=True):
        assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last)


def test_biases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights must have two dimensions or more, got \(5,\)"):
        Muon([nn.Parameter(torch.zeros(5))], torch.tensor(0.1))
