"""The training step: what it leaves alone, what it draws, and that its ways agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import KERNEL_DEVICE, relative_error
from deblurgan.config import TrainConfig, train_config
from deblurgan.device import assume_kernels, pick_precision
from deblurgan.nn import Critic, Generator, PerceptualFeatures
from deblurgan.training import MEASURES, Networks, Step, TrainingError
from deblurgan.training.numerics import require_repeatable_cublas
from deblurgan.training.optimizers import FIRST_SCALE

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
    return Step(config, new_networks(config, device))


def new_networks(config: TrainConfig, device: str = "cpu") -> Networks:
    torch.manual_seed(1)
    generator = Generator("paper", width=4, blocks=1, dropout=0.5).train()
    critic = None if config.gan == "none" else Critic(width=4, layers=2)
    features = None if config.content == "none" else PerceptualFeatures()
    average = Generator(**generator.config()).requires_grad_(False) if config.ema else None
    nets = (None if net is None else net.to(device) for net in (generator, critic, average, features))
    return Networks(*nets)  # type: ignore[arg-type]


def pictures(number: int, device: str = "cpu", side: int = 32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    sharp = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=random)
    blurred = torch.nn.functional.avg_pool2d(sharp.float(), 3, 1, 1).to(torch.uint8)
    return blurred.to(device), sharp.to(device)


def steps(step: Step, count: int, device: str = "cpu") -> Tensor:
    """The losses of so many steps, [count, len(MEASURES)]."""
    return torch.stack([step(*pictures(i, device), number=i, rate=1e-3) for i in range(count)])


def test_losses_are_in_order_and_dropout_is_of_the_step() -> None:
    values = steps(new_step(), 2)
    assert values.shape == (2, len(MEASURES))
    named = dict(zip(MEASURES, values[0].tolist(), strict=True))
    assert named["content"] == named["tv"] == 0 and all(named[k] for k in ("critic", "penalty", "adversarial", "pixel"))
    assert torch.equal(values, steps(new_step(), 2))
    other = new_step()
    first = other(*pictures(0), number=7, rate=1e-3)
    assert not torch.equal(first, values[0]), "another step has other masks"


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_step_is_a_function_of_its_number(optimizer: str) -> None:
    """Whatever ran before: what a resumed run needs."""
    whole, parts = (new_step(ema=0.9, optimizer=optimizer) for _ in range(2))
    steps(whole, 3)
    steps(parts, 2)
    resumed = new_step(ema=0.9, optimizer=optimizer)
    resumed.load_state_dict({name: value.clone() for name, value in parts.state_dict().items()})
    resumed(*pictures(2), number=2, rate=1e-3)
    after, wanted = resumed.state_dict(), whole.state_dict()
    assert all(torch.equal(after[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_s_default_dtype_has_no_say(precision: str, optimizer: str) -> None:
    options = {"ema": 0.9, "precision": precision, "optimizer": optimizer}
    config = train_config("unused", **{**SMALL, **options})
    networks, wanted = new_networks(config), new_step(**options)
    torch.set_default_dtype(torch.float64)
    try:
        step = Step(config, networks)
        values = steps(step, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert values.dtype == torch.float32 and torch.equal(values, steps(wanted, 2))
    after, expected = step.state_dict(), wanted.state_dict()
    assert all(after[name].dtype == expected[name].dtype for name in expected)


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


def test_muon_trains_the_convolutions_between_stem_and_head_and_adam_the_rest() -> None:
    step = new_step(optimizer="muon")
    names = {id(p): name for name, p in step.networks.generator.named_parameters()}
    by_muon, by_adam = (
        {names[id(p)] for p in optimizer.param_groups[0]["params"]}
        for optimizer in (step.optimizers.by_name["muon.generator"], step.optimizers.by_name["adam.generator"])
    )
    assert by_adam == {"stem.weight", "head.weight", "head.bias"}
    assert by_muon == {name for name in names.values() if name.endswith("weight")} - by_adam
    before = {name: p.clone() for name, p in step.networks.generator.named_parameters()}
    step(*pictures(0), number=0, rate=1e-3)
    moved = {name for name, p in step.networks.generator.named_parameters() if not torch.equal(p, before[name])}
    assert moved == by_muon | by_adam
    moments = {name for name in step.state_dict() if name.startswith("muon.")}
    assert moments == {f"muon.generator.{i}.momentum" for i in range(len(by_muon))}


def test_muon_s_rate_goes_with_adam_s() -> None:
    step = new_step(optimizer="muon", lr=1e-4, muon_lr=0.02)
    step(*pictures(0), number=0, rate=5e-5)
    assert float(step.optimizers.by_name["muon.generator"].param_groups[0]["lr"]) == pytest.approx(0.01)


def test_deterministic_muon_on_cuda_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ValueError, match=r"deterministic needs CUBLAS_WORKSPACE_CONFIG .*, got None"):
        require_repeatable_cublas()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    require_repeatable_cublas()


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("poisoned", ["generator", "critic"])
def test_an_update_that_is_not_finite_is_left_out(poisoned: str, optimizer: str) -> None:
    step = new_step(ema=0.5, optimizer=optimizer)
    steps(step, 1)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    net: Any = step.networks.generator if poisoned == "generator" else step.networks.critic
    weight = net.down[0].weight if poisoned == "generator" else net.convs[0].weight
    handle = weight.requires_grad_().register_hook(lambda gradient: gradient * float("inf"))
    for i in (1, 2):
        step(*pictures(i), number=i, rate=1e-3)
        assert int(step.skipped_steps) == i
    after = step.state_dict()
    unchanged = [name for name in before if poisoned == "critic" or "critic" not in name]
    assert all(torch.equal(after[name], before[name]) for name in unchanged)
    handle.remove()
    step(*pictures(3), number=3, rate=1e-3)
    assert int(step.skipped_steps) == 0
    assert not torch.equal(step.state_dict()["generator.head.weight"], before["generator.head.weight"])


@pytest.mark.parametrize("gp_norm", ["sample", "pixel"])
def test_the_critic_s_fused_pass_does_what_autograd_does(gp_norm: str, device: torch.device) -> None:
    fused, plain = (new_step(device.type, gp_norm=gp_norm) for _ in range(2))
    assert plain.networks.critic is not None
    plain.networks.critic.convs[0].weight.requires_grad_().register_hook(lambda gradient: gradient)
    values, wanted = steps(fused, 3, device.type), steps(plain, 3, device.type)
    assert fused.critic_gradients is not None and fused.critic_gradients.uses_fused_pass()
    assert plain.critic_gradients is not None and not plain.critic_gradients.uses_fused_pass()
    for i in (name for name in range(len(MEASURES)) if wanted[:, name].any()):
        assert relative_error(values[:, i], wanted[:, i]) < 1e-4, MEASURES[i]
    after, expected = fused.state_dict(), plain.state_dict()
    for name in (name for name in after if name.startswith("critic.")):
        assert relative_error(after[name], expected[name]) < 1e-4, name


def test_a_fused_pass_that_is_not_finite_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    step = new_step()
    assert step.critic_gradients is not None
    steps(step, 1)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    fused = step.critic_gradients.fused

    def poisoned(*args: Any, **options: Any) -> Any:
        loss, value, of_weights, of_bias = fused(*args, **options)
        of_weights[2][3, 1, 0, 2] = float("inf")
        return loss, value, of_weights, of_bias

    monkeypatch.setattr(step.critic_gradients, "fused", poisoned)
    step(*pictures(1), number=1, rate=1e-3)
    after = step.state_dict()
    assert int(step.skipped_steps) == 1 and all(torch.equal(after[name], before[name]) for name in before)


def test_fp16_scales_its_losses() -> None:
    step = new_step(precision="fp16", critic_steps=1)
    values, plain = steps(step, 3), steps(new_step(critic_steps=1), 3)
    scale = step.optimizers.scale
    assert scale is not None
    assert float(scale.value) == FIRST_SCALE and int(scale.age) == 6, "an update of the critic and one more a step"
    assert relative_error(values[0], plain[0]) < 1e-2
    before = {name: value.clone() for name, value in step.state_dict().items() if name.startswith("generator.")}
    scale.value.fill_(2.0**100)
    step(*pictures(3), number=3, rate=1e-3)
    assert float(scale.value) < 2.0**100, "gradients overflow, so the scale falls"
    after = step.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    again = new_step(precision="fp16", critic_steps=1)
    again.load_state_dict(after)
    assert again.optimizers.scale is not None and again.optimizers.scale.value == scale.value


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

    monkeypatch.setattr(step, "run", full)
    with pytest.raises(TrainingError, match=r"a step on 2 crops of \(32, 32\) does not fit.*lower batch_size or crop"):
        step(*pictures(0), number=0, rate=1e-3)
    assert step.graph is None
    reason = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(error, match="illegal"):
        step(*pictures(0), number=0, rate=1e-3)


def test_batches_may_change_their_size() -> None:
    step = new_step()
    for side in (32, 48, 32):
        assert step(*pictures(0, side=side), number=0, rate=1e-3).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_graph_replays_what_eager_does(precision: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = {"precision": precision, "ema": 0.9, "content": "vgg16", "deterministic": True, "optimizer": optimizer}
    graph, eager = new_step("cuda", **options), new_step("cuda", **options, graphs=False)
    values, wanted = steps(graph, 20, "cuda"), steps(eager, 20, "cuda")
    assert graph.graph is not None and eager.graph is None
    assert torch.equal(values, wanted)
    after, expected = graph.state_dict(), eager.state_dict()
    assert all(torch.equal(after[name], expected[name]) for name in expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_step_waits_for_nothing(optimizer: str) -> None:
    step = new_step("cuda", optimizer=optimizer)
    batches = [pictures(i, "cuda") for i in range(4)]
    step(*batches[0], number=0, rate=1e-3)
    step(*batches[1], number=1, rate=1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*batches[2], number=2, rate=1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("few_programs")
def test_kernels_and_plain_torch_agree_over_20_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for the generator and a penalty without double backward, beside plain torch with double backward."""
    pytest.importorskip("triton", reason="triton is not installed")
    from deblurgan.generator import tape
    from deblurgan.kernels.config import ConvConfig

    device = str(KERNEL_DEVICE)
    count = 20 if device == "cuda" else 3  # a step takes the interpreter seconds
    batches = [tuple(part[:1] for part in pictures(i, device, side=8)) for i in range(count)]

    def losses(step: Step) -> Tensor:
        return torch.stack([step(*batch, number=i, rate=1e-4) for i, batch in enumerate(batches)])

    eager = losses(new_step(device, backend="reference"))
    head = ConvConfig(64, 32, 16)
    monkeypatch.setattr(tape, "config_picker", lambda gpu: lambda shape: head if shape.kind == "head" else None)
    taken = []
    run = tape.restore
    monkeypatch.setattr(tape, "restore", lambda *args, **options: taken.append(1) or run(*args, **options))
    with assume_kernels():
        fast = losses(new_step(device, graphs=False))
    assert len(taken) == count
    used = [i for i in range(len(MEASURES)) if bool(eager[:, i].any())]
    assert len(used) == 6
    for i in used:
        assert relative_error(fast[:, i], eager[:, i]) < 2e-3, MEASURES[i]
