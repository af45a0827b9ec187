"""The generator's gradients in kernels against autograd in fp64, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, NET_TOLERANCE, lively, relative_error, textures
from deblurgan.generator import tape
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.table import PickConfig
from deblurgan.nn import Generator
from kernel_cases import flat, supported

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import norm_act_grad as norm_act_grad_module
from deblurgan.kernels.norm_act_grad import norm_act_reduce

pytestmark = pytest.mark.usefixtures("few_programs")


HEAD = ConvConfig(64, 32, 16)


def ours(shape: ConvShape) -> ConvConfig:
    return HEAD if shape.kind == "head" else ConvConfig(128, 64, 64)


def flat_trunk(shape: ConvShape) -> ConvConfig:
    return ConvConfig(32, 32, 32, form="tma") if shape.kind.startswith("trunk") else ours(shape)


def library(shape: ConvShape) -> ConvConfig | None:
    return HEAD if shape.kind == "head" else None


def net(preset: str = "paper", **options: Any) -> Generator:
    torch.manual_seed(0)
    return lively(Generator(preset, **{"width": 8, "blocks": 1, **options})).train()


def pictures(n: int, h: int, w: int) -> Tensor:
    """[n, 3, h, w] in [-1, 1] with texture."""
    return textures(n, h, w).float() / 127.5 - 1


COUNTER = torch.tensor([11, 4], device=KERNEL_DEVICE)
Gradients = dict[str, Tensor]


def reference_gradients(generator: Generator, x: Tensor, dtype: torch.dtype) -> Gradients:
    """Of a weighted sum of the result: every optimised parameter's, and the picture's."""
    plain = deepcopy(generator).to(dtype)
    plain.backend = "reference"
    image = x.to(dtype).requires_grad_()
    out = plain(image, counter=COUNTER if generator.spec.dropout else None)
    (out * weights_of(out)).sum().backward()
    dead = plain.dead_biases()
    found = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None and name not in dead}
    assert image.grad is not None
    return {"image": image.grad, **found}


def weights_of(out: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(out.shape, generator=random).to(out)


def tape_gradients(generator: Generator, x: Tensor, dtype: torch.dtype, pick_config: PickConfig) -> Gradients:
    parameters = dict(generator.named_parameters())
    image = x.clone().requires_grad_()
    counter = COUNTER if generator.spec.dropout else None
    out = tape.restore(generator.spec, parameters, image, dtype=dtype, counter=counter, pick_config=pick_config)
    names = [name for name in parameters if name not in generator.dead_biases()]
    grads = torch.autograd.grad((out * weights_of(out)).sum(), [image, *(parameters[name] for name in names)])
    return dict(zip(["image", *names], grads, strict=True))


class Net(NamedTuple):
    options: dict[str, Any]
    pick_config: PickConfig
    n: int
    h: int
    w: int


PAPER, ARTICLE = {"preset": "paper"}, {"preset": "article"}
NETS = {
    "paper, ours": Net({**PAPER, "width": 16}, ours, 1, 8, 12),
    "paper, tma": Net(PAPER, flat_trunk, 2, 12, 8),
    "paper, library": Net({**PAPER, "blocks": 2}, library, 1, 8, 20),
    "paper without dropout, ours": Net({**PAPER, "dropout": 0.0}, ours, 1, 8, 12),
    "article, ours": Net({**ARTICLE, "blocks": 2}, ours, 1, 8, 12),
    "article, tma": Net({**ARTICLE, "width": 16}, flat_trunk, 1, 8, 16),
    "article, library": Net({**ARTICLE, "width": 16}, library, 1, 8, 16),
    "no blocks": Net({**PAPER, "blocks": 0}, library, 2, 8, 8),
}


def errors(got: Gradients, wanted: Gradients) -> dict[str, float]:
    assert got.keys() == wanted.keys()
    return {name: relative_error(gradient, wanted[name]) for name, gradient in got.items()}


A_FLIP = 0.12  # relative error of a gradient after one ReLU of planes as small as these took the other side


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{name}-{dtype}")
        for name, case in NETS.items()
        for dtype in (KERNEL_DTYPES[:1] if case.pick_config is library else KERNEL_DTYPES)
    ],
)
def test_tape_is_the_generator_s_gradient(case: Net, dtype: torch.dtype, poisoned: None) -> None:
    """fp32 within a network's tolerance. In half types a ReLU that flips decides, by either way."""
    if case.pick_config is flat_trunk:
        supported(flat(32, 32, 32))
    generator, x = net(**case.options), pictures(case.n, case.h, case.w)
    wanted = reference_gradients(generator, x, torch.float64)
    got = tape_gradients(generator, x, dtype, case.pick_config)
    assert all(gradient.dtype == torch.float32 for gradient in got.values())
    allowed = NET_TOLERANCE[torch.float32]
    if dtype != torch.float32:
        worst = max(errors(reference_gradients(generator, x, dtype), wanted).values())
        allowed = max(A_FLIP, 2 * worst)
    for name, error in errors(got, wanted).items():
        assert error <= allowed, f"{name}: relative error {error:.3g} above {allowed:.3g}"
        assert cosine(got[name], wanted[name]) >= 1 - allowed**2, name


def test_tape_gives_the_same_bits_again(poisoned: None) -> None:
    generator, x = net(), pictures(1, 8, 8)
    first, second = (tape_gradients(generator, x, torch.float32, ours) for _ in range(2))
    assert all(torch.equal(gradient, second[name]) for name, gradient in first.items())


def test_norms_of_convolutions_of_ours_need_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours take the sums for all norms but those of the residual, after down.1 and the block's second."""
    seen = []
    run = norm_act_reduce
    monkeypatch.setattr(norm_act_grad_module, "norm_act_reduce", lambda *a, **k: seen.append(a) or run(*a, **k))
    tape_gradients(net(), pictures(1, 8, 8), torch.float32, ours)
    assert len(seen) == 2


def test_tape_makes_what_is_wanted_alone() -> None:
    generator, x = net(), pictures(1, 8, 8)
    everything = tape_gradients(generator, x, torch.float32, library)
    generator.requires_grad_(False)
    generator.up[0].weight.requires_grad_()
    parameters = dict(generator.named_parameters())
    out = tape.restore(generator.spec, parameters, x, dtype=torch.float32, counter=COUNTER, pick_config=library)
    (out * weights_of(out)).sum().backward()
    found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert found.keys() == {"up.0.weight"}
    assert torch.equal(found["up.0.weight"], everything["up.0.weight"])


def test_tape_of_half_parameters_and_pictures() -> None:
    generator, x = net(dropout=0.0), pictures(1, 8, 12)
    wanted = tape_gradients(generator.half(), x, torch.float32, library)
    assert wanted["stem.weight"].dtype == torch.float16
    assert wanted["image"].dtype == torch.float32
    half = tape_gradients(generator, x.half(), torch.float32, library)
    assert half["image"].dtype == torch.float16
    assert relative_error(half["head.weight"], wanted["head.weight"]) <= NET_TOLERANCE[torch.float16]


def test_gradients_have_no_gradient() -> None:
    generator, x = net(), pictures(1, 8, 8)
    parameters = dict(generator.named_parameters())
    image = x.requires_grad_()
    out = tape.restore(generator.spec, parameters, image, dtype=torch.float32, counter=COUNTER, pick_config=library)
    (first,) = torch.autograd.grad(out.sum(), image, create_graph=True)
    for source in (image, parameters["stem.weight"]):
        with pytest.raises(RuntimeError, match=r"once: set generator.backend = 'reference'"):
            torch.autograd.grad(first.square().sum(), source, retain_graph=True)


def saved_bytes(run: Callable[[], Tensor], known: set[int]) -> int:
    """Of the memory that autograd saves, each part of it once, but for what is `known` by its address."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(size for address, size in saved.items() if address not in known)


@pytest.mark.parametrize("preset", ["paper", "article"])
def test_tape_saves_at_most_half(preset: str) -> None:
    """Of each picture: what one more of them adds."""
    generator = net(preset, blocks=3, width=4)
    parameters = dict(generator.named_parameters())
    counter = COUNTER if generator.spec.dropout else None
    plain = deepcopy(generator)
    plain.backend = "reference"
    known = {p.untyped_storage().data_ptr() for net in (generator, plain) for p in net.parameters()}

    def fast(x: Tensor) -> Tensor:
        return tape.restore(generator.spec, parameters, x, dtype=torch.float32, counter=counter, pick_config=library)

    def more(run: Callable[[Tensor], Tensor]) -> int:
        one, two = (saved_bytes(partial(run, pictures(n, 16, 96)), known) for n in (1, 2))
        return two - one

    ours, eager = more(fast), more(lambda x: plain(x, counter=counter))
    assert ours <= eager / 2, f"{ours} bytes are more than half of {eager}"


def test_what_is_saved_is_freed_with_the_graph() -> None:
    generator, x = net(), pictures(1, 8, 8)
    out = tape.restore(
        generator.spec, dict(generator.named_parameters()), x, dtype=torch.float32, counter=COUNTER, pick_config=library
    )
    out.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


def test_changed_weights_are_noticed() -> None:
    generator, x = net(), pictures(1, 8, 8)
    out = tape.restore(
        generator.spec, dict(generator.named_parameters()), x, dtype=torch.float32, counter=COUNTER, pick_config=library
    )
    with torch.no_grad():
        generator.stem.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.fixture
def fast(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators take the tape on the CPU too."""
    monkeypatch.setattr(tape, "config_picker", lambda gpu: library)


def trained(generator: Generator, x: Tensor, **options: Any) -> Gradients:
    generator.zero_grad()
    out = generator(x, **options)
    (out * weights_of(out)).sum().backward()
    return {name: p.grad for name, p in generator.named_parameters() if p.grad is not None}


def test_generator_takes_the_tape(fast: None) -> None:
    generator, x = net(), pictures(1, 8, 12)
    got = trained(generator, x, counter=COUNTER)
    assert got.keys() == {name for name, _ in generator.named_parameters()} - generator.dead_biases()
    generator.backend = "reference"
    plain = trained(generator, x, counter=COUNTER)
    assert plain.keys() > got.keys(), "plain torch gives dead biases a gradient too"
    for name, gradient in got.items():
        assert 0 < relative_error(gradient, plain[name]) <= NET_TOLERANCE[torch.float32], name


def test_tape_draws_dropout_as_plain_torch_does(fast: None) -> None:
    generator, x = net(width=4), pictures(1, 8, 8)
    by_seed = trained(generator, x, seed=3)
    assert all(torch.equal(gradient, by_seed[name]) for name, gradient in trained(generator, x, seed=3).items())
    again = trained(generator, x, seed=4)
    assert not torch.equal(again["head.weight"], by_seed["head.weight"])
    generator.eval()
    without = trained(generator, x)
    generator.backend = "reference"
    assert relative_error(without["head.weight"], trained(generator, x)["head.weight"]) <= NET_TOLERANCE[torch.float32]


def test_tape_computes_in_autocast_s_type(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = tape.Tape.forward
    monkeypatch.setattr(tape.Tape, "forward", lambda self, *args: seen.append(self.dtype) or run(self, *args))
    generator, x = net(dropout=0.0), pictures(1, 8, 8)
    with torch.autocast(KERNEL_DEVICE.type, torch.float16):
        out = generator(x)
    assert seen == [torch.float16]
    assert out.dtype == torch.float32
    out.sum().backward()
    assert generator.stem.weight.grad is not None
    assert generator.stem.weight.grad.dtype == torch.float32


def gpu(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.gpu(pytest.mark.skipif(KERNEL_DEVICE.type != "cuda", reason="torch sees no CUDA device")(test))


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", ["paper", "article"])
def test_gpu_gradients_match_the_reference(preset: str, dtype: torch.dtype) -> None:
    generator, x = net(preset, width=64, blocks=2), pictures(2, 64, 96)
    wanted = reference_gradients(generator, x, torch.float64)
    worst = max(errors(reference_gradients(generator, x, dtype), wanted).values())
    with torch.autocast("cuda", dtype):
        assert generator.why_reference(x) is None
        got = trained(generator, x, counter=COUNTER if generator.spec.dropout else None)
    for name, gradient in got.items():
        assert relative_error(gradient, wanted[name]) <= max(A_FLIP, 2 * worst), name


@gpu
def test_gpu_captures_forward_and_backward() -> None:
    generator, x = net(width=64, blocks=2), pictures(1, 32, 48)
    counter = COUNTER.clone()
    static = x.clone()

    def step() -> Tensor:
        out = generator(static, counter=counter)
        (out * out).sum().backward()
        return out

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    generator.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    other = pictures(2, 32, 48)[1:]
    static.copy_(other)
    counter.copy_(torch.tensor([2, 9]))
    for parameter in generator.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    graph.replay()
    captured = {name: p.grad.clone() for name, p in generator.named_parameters() if p.grad is not None}
    shown = out.detach().clone()
    generator.zero_grad()
    assert torch.equal(step().detach(), shown)
    for name, gradient in captured.items():
        eager = generator.get_parameter(name).grad
        assert eager is not None
        assert torch.equal(gradient, eager), name
