"""The training step: what it leaves alone, what it draws, and that its ways agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import KERNEL_DEVICE, relative_error
from deblurgan.config import train_config
from deblurgan.device import assume_kernels
from deblurgan.nn import Critic, Generator, PerceptualFeatures
from deblurgan.training.step import FIRST_SCALE, LOSSES, Networks, Step, TrainingError, pick_precision

SMALL: dict[str, Any] = {
    "preset": "paper",
    "critic_steps": 2,
    "crop": 32,
    "batch_size": 2,
    "content": "none",
    "pixel": "l2",
    "precision": "fp32",
}


def new_step(device: str = "cpu", **options: Any) -> Step:
    """A step on small networks of the same weights each time."""
    config = train_config("unused", **{**SMALL, **options})
    torch.manual_seed(1)
    generator = Generator("paper", width=4, blocks=1, dropout=0.5).train()
    critic = None if config.gan == "none" else Critic(width=4, layers=2)
    features = None if config.content == "none" else PerceptualFeatures()
    average = Generator(**generator.config()).requires_grad_(False) if config.ema else None
    nets = (None if net is None else net.to(device) for net in (generator, critic, average, features))
    return Step(config, Networks(*nets))  # type: ignore[arg-type]


def pictures(number: int, device: str = "cpu", side: int = 32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    sharp = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=random)
    blurred = torch.nn.functional.avg_pool2d(sharp.float(), 3, 1, 1).to(torch.uint8)
    return blurred.to(device), sharp.to(device)


def steps(step: Step, count: int, device: str = "cpu") -> Tensor:
    """The losses of so many steps, [count, len(LOSSES)]."""
    return torch.stack([step(*pictures(i, device), number=i, rate=1e-3) for i in range(count)])


def test_losses_are_in_order_and_dropout_is_of_the_step() -> None:
    values = steps(new_step(), 2)
    assert values.shape == (2, len(LOSSES))
    named = dict(zip(LOSSES, values[0].tolist(), strict=True))
    assert named["content"] == named["tv"] == 0 and all(named[k] for k in ("critic", "penalty", "adversarial", "pixel"))
    assert torch.equal(values, steps(new_step(), 2))
    other = new_step()
    first = other(*pictures(0), number=7, rate=1e-3)
    assert not torch.equal(first, values[0]), "another step has other masks"


def test_a_step_is_a_function_of_its_number() -> None:
    """Whatever ran before: what a resumed run needs."""
    whole, parts = new_step(ema=0.9), new_step(ema=0.9)
    steps(whole, 3)
    steps(parts, 2)
    resumed = new_step(ema=0.9)
    resumed.load_state_dict({name: value.clone() for name, value in parts.state_dict().items()})
    resumed(*pictures(2), number=2, rate=1e-3)
    after, wanted = resumed.state_dict(), whole.state_dict()
    assert all(torch.equal(after[name], wanted[name]) for name in wanted)


class Seen(Exception):
    pass


def test_deterministic_holds_for_the_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = new_step(deterministic=True), []

    def run(*_: Tensor) -> Tensor:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        raise Seen

    monkeypatch.setattr(step, "run", run)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with pytest.raises(Seen):
        step(*pictures(0), number=0, rate=1e-3)
    assert seen == [(True, False)]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_deterministic_steps_give_the_same_bits(device: torch.device, backend: str) -> None:
    """Every operation of the step has such a form: torch raises for those that have none."""
    options = {"deterministic": True, "content": "vgg16", "backend": backend, "tv_weight": 0.1}
    first, again = (steps(new_step(device.type, **options), 3, device.type) for _ in range(2))
    assert torch.equal(first, again)


def test_the_learning_rate_is_obeyed_after_loading() -> None:
    step = new_step()
    steps(step, 1)
    state = {name: value.clone() for name, value in step.state_dict().items()}
    step.load_state_dict(state)
    step(*pictures(1), number=1, rate=0.0)
    after = step.state_dict()
    assert all(torch.equal(after[name], state[name]) for name in state if name.startswith(("generator.", "critic.")))


@pytest.mark.parametrize("poisoned", ["generator", "critic"])
def test_an_update_that_is_not_finite_is_left_out(poisoned: str) -> None:
    step = new_step(ema=0.5)
    steps(step, 1)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    net: Any = step.generator if poisoned == "generator" else step.critic
    weight = net.head.weight if poisoned == "generator" else net.convs[0].weight
    handle = weight.requires_grad_().register_hook(lambda gradient: gradient * float("inf"))
    for i in (1, 2):
        step(*pictures(i), number=i, rate=1e-3)
        assert int(step.bad_steps) == i
    after = step.state_dict()
    kept = [name for name in before if poisoned == "critic" or "critic" not in name]
    assert all(torch.equal(after[name], before[name]) for name in kept)
    handle.remove()
    step(*pictures(3), number=3, rate=1e-3)
    assert int(step.bad_steps) == 0
    assert not torch.equal(step.state_dict()["generator.head.weight"], before["generator.head.weight"])


@pytest.mark.parametrize("gp_norm", ["sample", "pixel"])
def test_the_critic_s_sweep_does_what_autograd_does(gp_norm: str, device: torch.device) -> None:
    swept, plain = (new_step(device.type, gp_norm=gp_norm) for _ in range(2))
    assert plain.critic is not None
    plain.critic.convs[0].weight.requires_grad_().register_hook(lambda gradient: gradient)
    values, wanted = steps(swept, 3, device.type), steps(plain, 3, device.type)
    assert swept.critic is not None and swept.sweeps(swept.critic) and not plain.sweeps(plain.critic)
    for i in (name for name in range(len(LOSSES)) if wanted[:, name].any()):
        assert relative_error(values[:, i], wanted[:, i]) < 1e-4, LOSSES[i]
    after, expected = swept.state_dict(), plain.state_dict()
    for name in (name for name in after if name.startswith("critic.")):
        assert relative_error(after[name], expected[name]) < 1e-4, name


def test_a_sweep_that_is_not_finite_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    step = new_step()
    steps(step, 1)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    sweep = step._critic_gradients

    def poisoned(*args: Any, **options: Any) -> Any:
        loss, value, of_weights, of_bias = sweep(*args, **options)
        of_weights[2][3, 1, 0, 2] = float("inf")
        return loss, value, of_weights, of_bias

    monkeypatch.setattr(step, "_critic_gradients", poisoned)
    step(*pictures(1), number=1, rate=1e-3)
    after = step.state_dict()
    assert int(step.bad_steps) == 1 and all(torch.equal(after[name], before[name]) for name in before)


def test_fp16_scales_its_losses() -> None:
    step = new_step(precision="fp16", critic_steps=1)
    values, plain = steps(step, 3), steps(new_step(critic_steps=1), 3)
    assert step.scale is not None
    assert float(step.scale) == FIRST_SCALE and int(step.scale_age) == 6, "an update of the critic and one more a step"
    assert relative_error(values[0], plain[0]) < 1e-2
    before = {name: value.clone() for name, value in step.state_dict().items() if name.startswith("generator.")}
    step.scale.fill_(2.0**100)
    step(*pictures(3), number=3, rate=1e-3)
    assert float(step.scale) < 2.0**100, "gradients overflow, so the scale falls"
    after = step.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    again = new_step(precision="fp16", critic_steps=1)
    again.load_state_dict(after)
    assert again.scale == step.scale


def test_precision_auto_is_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert pick_precision("auto", cpu) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {}, raising=False)
    assert pick_precision("auto", cpu) == "fp32"
    assert pick_precision("bf16", cpu) == "bf16"


def test_why_steps_are_eager() -> None:
    assert new_step().why_eager() == "there is no CUDA device"


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, torch.AcceleratorError])
def test_out_of_memory_says_what_to_do(error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch) -> None:
    step = new_step()
    reason = "CUDA error: out of memory"

    def full(blurred: Tensor, sharp: Tensor) -> Tensor:
        raise error(reason)

    monkeypatch.setattr(step, "_run", full)
    with pytest.raises(TrainingError, match=r"a step on 2 crops of \(32, 32\) does not fit.*lower batch_size or crop"):
        step(*pictures(0), number=0, rate=1e-3)
    assert step._graph is None
    reason = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(error, match="illegal"):
        step(*pictures(0), number=0, rate=1e-3)


def test_batches_may_change_their_size() -> None:
    step = new_step()
    for side in (32, 48, 32):
        assert step(*pictures(0, side=side), number=0, rate=1e-3).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_graph_replays_what_eager_does(precision: str) -> None:
    options = {"precision": precision, "ema": 0.9, "content": "vgg16", "deterministic": True}
    graph, eager = new_step("cuda", **options), new_step("cuda", **options, graphs=False)
    values, wanted = steps(graph, 20, "cuda"), steps(eager, 20, "cuda")
    assert graph._graph is not None and eager._graph is None
    assert torch.equal(values, wanted)
    after, expected = graph.state_dict(), eager.state_dict()
    assert all(torch.equal(after[name], expected[name]) for name in expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_step_waits_for_nothing() -> None:
    step = new_step("cuda")
    batches = [pictures(i, "cuda") for i in range(4)]
    step(*batches[0], number=0, rate=1e-3)
    step(*batches[1], number=1, rate=1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*batches[2], number=2, rate=1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kernels_and_plain_torch_agree_over_20_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator on the tape and the penalty without double backward, beside neither."""
    pytest.importorskip("triton", reason="triton is not installed")
    from deblurgan import tape
    from deblurgan.kernels.config import ConvConfig

    device = str(KERNEL_DEVICE)
    batches = [tuple(part[:1] for part in pictures(i, device, side=8)) for i in range(20)]  # the interpreter is slow

    def losses(step: Step) -> Tensor:
        return torch.stack([step(*batch, number=i, rate=1e-4) for i, batch in enumerate(batches)])

    eager = losses(new_step(device, backend="reference"))
    head = ConvConfig(64, 32, 16)
    monkeypatch.setattr(tape, "config_picker", lambda gpu: lambda kind, *_: head if kind == "head" else None)
    taken = []
    run = tape.restore
    monkeypatch.setattr(tape, "restore", lambda *args, **options: taken.append(1) or run(*args, **options))
    with assume_kernels():
        fast = losses(new_step(device, graphs=False))
    assert len(taken) == 20
    used = [i for i in range(len(LOSSES)) if bool(eager[:, i].any())]
    assert len(used) == 4
    for i in used:
        assert relative_error(fast[:, i], eager[:, i]) < 2e-3, LOSSES[i]
