"""One training step: the critic's updates on a batch, then the generator's.

Nothing in a step waits for the device or looks at a value there: what is random in it comes from counters, an update
with gradients that are not finite is left out by the optimiser itself, and losses stay where they are. So on CUDA the
whole step is captured once and replayed as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from deblurgan import _C, losses, ops
from deblurgan.config import Gan, TrainConfig
from deblurgan.data import Stream, derived_seed
from deblurgan.device import pick_precision
from deblurgan.generator.graphs import captured
from deblurgan.nn import Critic, Generator, PerceptualFeatures, trained_parameters
from deblurgan.ops import critic_gradients as penalty

LOSSES = ("critic", "penalty", "adversarial", "content", "pixel", "tv")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE, SCALE_GROWTH_EVERY = 2.0**16, 2000  # of fp16's losses: halved when gradients overflow, doubled in time


class TrainingError(RuntimeError):
    """Training cannot go on: losses are not finite, too many pictures are unreadable, or a step needs more memory."""


class Networks(NamedTuple):
    """What a step trains and needs: `average` is the generator's moving average, `features` those of the content."""

    generator: Generator
    critic: Critic | None
    average: Generator | None
    features: PerceptualFeatures | None


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Torch's own operations give the same bits each time, or raise. A setting of the whole process, put back after."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module with a property, which types do not show
    fill, benchmark = memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = fill and enabled  # costs a launch for each new tensor
    torch.backends.cudnn.benchmark = False  # which algorithm is fastest differs from run to run
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark = fill, benchmark


class Step:
    """`step(blurred, sharp, ...)` trains the networks on one batch, uint8 [n, 3, h, w] each, on their device.

    On CUDA a step has fewer launches where the networks are in channels_last.

    Weights, Adam's moments, statistics and losses are fp32; the networks compute in the config's precision under
    autocast, the frozen features' own weights included. Each update that is not finite is left out, and so are those
    after it in the same step.
    """

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        self.config = config
        self.generator, self.critic, self.average, self.features = networks
        self.device = next(self.generator.parameters()).device
        self.precision = pick_precision(config.precision, self.device)
        if self.features is not None and self.precision in HALF:
            self.features.features.to(HALF[self.precision])  # frozen: once is enough
        on_cuda = self.device.type == "cuda"
        self.rate = torch.tensor(config.lr, device=self.device)
        self.adams = {}
        for name, net in (("generator", self.generator), ("critic", self.critic)):
            if net is not None:
                trained = _trained(net, config)
                net.requires_grad_(False)  # the others' gradients would be rounding
                for parameter in trained:
                    parameter.requires_grad_()
                options: dict[str, Any] = {"betas": config.betas, "fused": True, "capturable": on_cuda}
                self.adams[name] = torch.optim.Adam(trained, lr=self.rate, **options)
        self.bad_steps = torch.zeros((), dtype=torch.int64, device=self.device)  # left out in a row, up to now
        self.share = torch.zeros((), device=self.device)  # of the generator in its moving average's update
        self.masks, self.alphas = (
            torch.tensor([derived_seed(stream, config.seed), 0], device=self.device)
            for stream in (Stream.DROPOUT, Stream.ALPHA)
        )
        self.scale = torch.tensor(FIRST_SCALE, device=self.device) if self.precision == "fp16" else None
        self.scale_age = torch.zeros((), dtype=torch.int32, device=self.device)
        self.generator.backend = config.backend
        self._network = torch.compile(self.generator) if config.compile else self.generator
        self._critic_gradients = penalty.critic_gradients
        if config.compile and not on_cuda:  # where kernels normalise
            self._critic_gradients = torch.compile(penalty.critic_gradients)
        self._graph: Graph | None = None
        self._seen: torch.Size | None = None

    def why_eager(self) -> str | None:
        """Why steps are not replayed as a CUDA graph; None where they are."""
        if self.device.type != "cuda":
            return "there is no CUDA device"
        if not self.config.graphs or self.config.backend == "reference":
            return "graphs is off" if not self.config.graphs else "the backend is 'reference'"
        return None if _C.built_with_cuda else "deblurgan._C was built without CUDA"

    def __call__(self, blurred: Tensor, sharp: Tensor, *, number: int, rate: float) -> Tensor:
        """One step, number `number` of the training, at the learning rate `rate`: its losses, fp32 [len(LOSSES)].

        Raises TrainingError where it does not fit into the GPU's memory; the weights may then be between two updates.
        """
        with torch.cuda.device_of(self.rate):
            return self._step(blurred, sharp, number, rate)

    def _step(self, blurred: Tensor, sharp: Tensor, number: int, rate: float) -> Tensor:
        n = blurred.shape[0]
        self.rate.fill_(rate)
        self.masks[1].fill_(number * n)  # a number put into an element is copied, and waited for
        self.alphas[1].fill_(number * n * self.config.critic_steps)
        self.share.fill_(1 - min(self.config.ema, (2 + number) / (11 + number)))
        try:
            with deterministic_algorithms() if self.config.deterministic else nullcontext():
                return self._run(blurred, sharp)
        except (torch.cuda.OutOfMemoryError, torch.AcceleratorError) as error:
            self._graph = None
            if "out of memory" not in str(error):  # a graph itself needs some, of CUDA's own
                raise
            raise TrainingError(
                f"a step on {n} crops of {tuple(blurred.shape[2:])} does not fit into the GPU's memory: lower "
                f"batch_size or crop{', or switch graphs off' if self.why_eager() is None else ''} ({error})"
            ) from error

    def _run(self, blurred: Tensor, sharp: Tensor) -> Tensor:
        if self.why_eager() is not None:
            return self.run(blurred, sharp)
        if blurred.shape != self._seen:  # the first step of a shape compiles kernels, which no capture allows
            self._graph, self._seen = None, blurred.shape
            return self.run(blurred, sharp)
        if self._graph is None:
            self._graph = Graph(self, blurred, sharp)
        return self._graph(blurred, sharp)

    def run(self, blurred: Tensor, sharp: Tensor) -> Tensor:
        """The launches of a step, one after another."""
        values = dict.fromkeys(LOSSES, self.rate.new_zeros(()))
        blurred, sharp = to_network(blurred), to_network(sharp)
        restored = self.restore(blurred)
        bad = self.rate.new_zeros(())  # 1 once an update was not finite
        if self.critic is not None:
            self._train_critic(True)
            alphas = self.alphas.clone()
            for _ in range(self.config.critic_steps):
                values |= self.critic_gradients(self.critic, sharp, restored.detach(), alphas)
                bad = self.update("critic", bad)
                alphas[1] += blurred.shape[0]
            self._train_critic(False)
        terms = self.generator_losses(restored, sharp)
        self.backward("generator", terms)
        bad = self.update("generator", bad)
        values |= terms
        self.bad_steps.add_(1).mul_(bad.long())
        if self.average is not None:
            self._update_average(self.average, bad)
        return torch.stack([values[name].detach().float() for name in LOSSES])

    def _train_critic(self, on: bool) -> None:
        for parameter in self.adams["critic"].param_groups[0]["params"]:
            parameter.requires_grad_(on)

    def autocast(self) -> torch.autocast:
        """The context that the networks compute in."""
        half = HALF.get(self.precision)
        return torch.autocast(self.device.type, half or torch.bfloat16, enabled=half is not None)

    def restore(self, blurred: Tensor) -> Tensor:
        """The generator's pictures of blurred ones [n, 3, h, w] in [-1, 1], fp32, with this step's dropout."""
        with self.autocast():
            return self._network(blurred, counter=self.masks if self.generator.spec.dropout else None).float()

    def critic_gradients(self, critic: Critic, sharp: Tensor, restored: Tensor, alphas: Tensor) -> dict[str, Tensor]:
        """The critic's losses; the gradients of their sum are left with its parameters.

        `alphas` names the penalty's draws: seed, first index. WGAN-GP's come in one sweep, but in fp16, which needs a
        loss scale, and where somebody has changed the critic or hooked its gradients.
        """
        config, alpha = self.config, None
        if config.gan == "wgan-gp":
            n = sharp.shape[0] if config.gp_norm == "sample" else 1
            alpha = ops.uniforms(n, counter=alphas)[:, :1, None, None]
            if self.sweeps(critic):
                return self._sweep(critic, sharp, restored, alpha)
        with self.autocast():
            scores = critic(torch.cat([sharp, restored])).float().chunk(2)
        terms = {"critic": losses.critic_loss(*scores, gan=cast(Gan, config.gan))}
        if alpha is not None:
            terms["penalty"] = self.penalty(critic, sharp, restored, alpha)
        self.backward("critic", terms)
        return terms

    def sweeps(self, critic: Critic) -> bool:
        """Whether the critic's gradients come in one sweep, which leaves out what others hung on it."""
        hooked = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in critic.parameters())
        return self.config.backend == "auto" and self.scale is None and losses.is_plain(critic) and not hooked

    def _sweep(self, critic: Critic, sharp: Tensor, restored: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        convs, config = losses.convolutions(critic), self.config
        weights, bias = [conv.weight for conv in convs], cast(Tensor, convs[0].bias)
        loss, value, of_weights, of_bias = self._critic_gradients(
            weights,
            bias,
            sharp,
            restored,
            alpha * sharp + (1 - alpha) * restored,
            padding=cast(int, convs[0].padding[0]),
            norm=config.gp_norm,
            weight=config.gp_weight,
            dtype=HALF.get(self.precision),
        )
        for parameter, gradient in zip((*weights, bias), (*of_weights, of_bias), strict=True):
            parameter.grad = gradient
        return {"critic": loss, "penalty": value}

    def penalty(self, critic: Critic, sharp: Tensor, restored: Tensor, alpha: Tensor) -> Tensor:
        """The gradient penalty at the mixtures that alpha [n, 1, 1, 1] names; by the reference in fp32."""
        options: dict[str, Any] = {"weight": self.config.gp_weight, "norm": self.config.gp_norm, "alpha": alpha}
        if self.config.backend == "reference":
            return losses.gradient_penalty(critic, sharp, restored, form="double", **options)
        with self.autocast():
            return losses.gradient_penalty(critic, sharp, restored, **options)

    def generator_losses(self, restored: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        """The parts of what the generator's update minimises, weighted."""
        config = self.config
        terms: dict[str, Tensor] = {}
        with self.autocast():
            if self.critic is not None:
                gan = cast(Gan, config.gan)
                terms["adversarial"] = losses.generator_loss(self.critic(restored).float(), gan=gan)
            if self.features is not None:
                with torch.no_grad():
                    target = self.features(sharp).float()
                terms["content"] = config.content_weight * losses.content(self.features(restored).float(), target)
        if config.pixel != "none":
            terms["pixel"] = config.pixel_weight * losses.pixel(restored, sharp, kind=config.pixel)
        if config.tv_weight:
            terms["tv"] = config.tv_weight * losses.total_variation(restored)
        return terms

    def backward(self, name: str, terms: dict[str, Tensor]) -> None:
        """Leaves the gradients of the terms' sum, times the loss scale, with the network's parameters."""
        self.adams[name].zero_grad()
        loss = sum(terms.values(), start=self.rate.new_zeros(()))
        (loss if self.scale is None else loss * self.scale).backward()

    def update(self, name: str, bad: Tensor) -> Tensor:
        """An Adam step, unless `bad` is 1 or a gradient is not finite: 1 then, else 0."""
        adam: Any = self.adams[name]
        gradients = [p.grad for p in adam.param_groups[0]["params"] if p.grad is not None]
        finite = torch.nn.utils.get_total_norm(gradients).isfinite()
        bad = torch.maximum(bad, (~finite).float())
        adam.found_inf, adam.grad_scale = bad, self.scale  # fused Adam reads both on the device
        adam.step()
        if self.scale is not None:
            torch._amp_update_scale_(self.scale, self.scale_age, (~finite).float(), 2.0, 0.5, SCALE_GROWTH_EVERY)
        return bad

    @torch.no_grad()
    def _update_average(self, average: Generator, bad: Tensor) -> None:
        share = self.share * (1 - bad)
        for mean, value in zip(average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, share)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, average, Adam's moments and fp16's loss scale, as tensors by name."""
        state = {f"generator.{name}": value for name, value in self.generator.state_dict().items()}
        if self.critic is not None:
            state |= {f"critic.{name}": value for name, value in self.critic.state_dict().items()}
        if self.average is not None:
            state |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for owner, adam in self.adams.items():
            for i, parameter in enumerate(adam.param_groups[0]["params"]):
                for name, value in adam.state[parameter].items():
                    state[f"adam.{owner}.{i}.{name}"] = value
        if self.scale is not None:
            state |= {"scale.value": self.scale, "scale.age": self.scale_age}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError or RuntimeError for that of another network."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

        self.generator.load_state_dict(part("generator."))
        if self.critic is not None:
            self.critic.load_state_dict(part("critic."))
        if self.average is not None:
            self.average.load_state_dict(part("average."))
        for owner, adam in self.adams.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in part(f"adam.{owner}.").items():
                i, kind = name.split(".")
                if int(i) >= len(adam.param_groups[0]["params"]):
                    raise ValueError(f"state must be of as many {owner} parameters, got one more: {name}")
                like = adam.param_groups[0]["params"][int(i)]
                if value.shape == like.shape:  # fused Adam wants moments to lie as the weights do
                    value = torch.empty_like(like, dtype=value.dtype).copy_(value)
                moments.setdefault(int(i), {})[kind] = value
            adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})
            adam.param_groups[0]["lr"] = self.rate  # the optimiser has taken a copy
        if self.scale is not None:
            self.scale.copy_(state["scale.value"])
            self.scale_age.copy_(state["scale.age"])
        self._graph = self._seen = None  # it holds the old moments


def _trained(net: Generator | Critic, config: TrainConfig) -> list[nn.Parameter]:
    """The parameters that matter: a constant added to all its scores changes no gradient of WGAN-GP's."""
    parameters = trained_parameters(net)
    if isinstance(net, Critic) and config.gan == "wgan-gp":
        return [p for p in parameters if p is not losses.convolutions(net)[-1].bias]
    return parameters


class Graph:
    """A captured step: the same launches again, on other pictures."""

    def __init__(self, step: Step, blurred: Tensor, sharp: Tensor) -> None:
        self.blurred, self.sharp = blurred.clone(), sharp.clone()
        for adam in step.adams.values():
            adam.zero_grad()  # gradients are then the graph's own
        with captured(step.device) as self.graph:
            self.values = step.run(self.blurred, self.sharp)

    def __call__(self, blurred: Tensor, sharp: Tensor) -> Tensor:
        self.blurred.copy_(blurred)
        self.sharp.copy_(sharp)
        self.graph.replay()
        return self.values.clone()


def to_network(pictures: Tensor) -> Tensor:
    """uint8 -> fp32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1
