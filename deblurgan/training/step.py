"""One training step: the critic's updates on a batch, then the generator's.

Of several processes each computes its share of the batch, in `accumulate` parts: gradients are summed over the parts
and averaged over the processes before each update. All losses are means and all parts equal, and what is random goes by
a crop's number in the whole batch, so the result is that of one process and one part, up to rounding.

In a step the host neither waits for the device nor looks at a value there: random numbers come from counters, an update
whose gradients are not finite is left out by the optimiser itself, and losses stay on the device. So on CUDA the whole
step is captured once and replayed as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from deblurgan import _C
from deblurgan.config import TrainConfig
from deblurgan.data import RngStream, derived_seed
from deblurgan.device import compile_options, pick_precision
from deblurgan.distributed import Processes
from deblurgan.training.average import MovingAverage
from deblurgan.training.critic import CriticGradients
from deblurgan.training.errors import TrainingError
from deblurgan.training.graph import CapturedStep
from deblurgan.training.networks import Networks, to_network
from deblurgan.training.numerics import HALF, autocast, deterministic_algorithms
from deblurgan.training.objective import LOSSES, OwnLoss, generator_losses, measures, on_device
from deblurgan.training.optimizers import Optimizers, part_of
from deblurgan.training.own_optimizer import OptimizerFactory


class _Part(NamedTuple):
    """Crops that are computed together, fp32 [n, 3, h, w] in [-1, 1]."""

    blurred: Tensor
    sharp: Tensor
    first: int
    """Index of the first one in this process's share of the batch."""


class Step:
    """`step(blurred, sharp, ...)` trains the networks on one batch, uint8 [n, 3, h, w] each, on their device; of
    several `processes` each gives its share, as large as the others'. They begin with the weights of the first one.

    On CUDA a step has fewer launches where the networks are in channels_last.

    Weights, the optimisers' moments, statistics and losses are fp32. The networks compute in the config's precision
    under autocast, and so does Muon; the frozen features' own weights are converted to it. An update that is not finite
    is left out, and so are all later ones of the same step. `losses` are added to the generator's own, and the
    optimiser that `optimizer` makes trains it in place of Adam.
    """

    def __init__(
        self,
        config: TrainConfig,
        networks: Networks,
        processes: Processes | None = None,
        *,
        losses: Mapping[str, OwnLoss] | None = None,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        self.config, self.networks, self.device = config, networks, networks.device
        self.processes = processes or Processes()
        self.processes.copy_from_first(value for net in networks if net for value in net.state_dict().values())
        self.precision = pick_precision(config.precision, self.device)
        if networks.features is not None and self.precision in HALF:
            networks.features.features.to(HALF[self.precision])  # frozen, so they need not be converted each step
        networks.generator.backend = config.backend
        self.losses, self.measures = on_device(losses or {}, self.device), measures(config)
        self.optimizers = Optimizers(config, networks, self.precision, optimizer)
        self.average = None if networks.average is None else MovingAverage(networks.average, config.ema)
        self.critic_gradients = None
        if networks.critic is not None:
            self.critic_gradients = CriticGradients(config, networks.critic, self.optimizers, self.precision)
        self.skipped_steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self.dropout_counter, self.alpha_counter = (
            torch.tensor([derived_seed(rng_stream, config.seed), 0], dtype=torch.int64, device=self.device)
            for rng_stream in (RngStream.DROPOUT, RngStream.ALPHA)
        )
        self._alpha_by_crop = config.gp_norm == "sample"  # else one for the whole batch
        options = compile_options(self.device)
        self._generator = torch.compile(networks.generator, options=options) if config.compile else networks.generator
        self.graph: CapturedStep | None = None
        self._shape: torch.Size | None = None  # of the batch before

    def why_eager(self) -> str | None:
        """Why steps are not replayed as a CUDA graph; None where they are."""
        if self.device.type != "cuda":
            return "there is no CUDA device"
        if not self.config.graphs or self.config.backend == "reference":
            return "graphs is off" if not self.config.graphs else "the backend is 'reference'"
        if self.losses or self.optimizers.own is not None:
            return f"the {'losses are' if self.losses else 'optimizer is'} your own"
        if self.processes.count > 1 and self.processes.backend(self.device) != "nccl":
            return "gradients are averaged over gloo"
        return None if _C.built_with_cuda else "deblurgan._C was built without CUDA"

    def __call__(self, blurred: Tensor, sharp: Tensor, *, number: int, rate: float) -> Tensor:
        """Step `number` of the training, at the learning rate `rate`; returns its measures, fp32 [len(self.measures)],
        means over all processes.

        Raises ValueError where accumulate does not divide the crops, TrainingError where the step does not fit into the
        GPU's memory; the weights may then be between two updates.
        """
        if blurred.shape[0] % self.config.accumulate:
            raise ValueError(f"blurred must hold a multiple of accumulate {self.config.accumulate}, got {len(blurred)}")
        with torch.cuda.device_of(self.optimizers.rate):
            self._prepare(number, blurred.shape[0], rate)
            try:
                with deterministic_algorithms() if self.config.deterministic else nullcontext():
                    return self._run_or_replay(blurred, sharp)
            except (torch.cuda.OutOfMemoryError, torch.AcceleratorError) as error:
                self.graph = None
                if "out of memory" not in str(error):  # a graph needs some of CUDA's own, and no error class says so
                    raise
                raise self._out_of_memory(blurred, error) from error

    def _prepare(self, number: int, n: int, rate: float) -> None:
        """Sets what differs from step to step, by launches that the host does not wait for."""
        self.optimizers.set_rate(rate)
        in_all, first = n * self.processes.count, n * self.processes.rank
        # `counter[1] = ...` would copy from the host, and wait for it
        self.dropout_counter[1].fill_(number * in_all + first)
        self.alpha_counter[1].fill_(number * in_all * self.config.critic_steps + (first if self._alpha_by_crop else 0))
        if self.average is not None:
            self.average.set_step(number)

    def _run_or_replay(self, blurred: Tensor, sharp: Tensor) -> Tensor:
        if self.why_eager() is not None:
            return self.run(blurred, sharp)
        if blurred.shape != self._shape:  # the first step of a shape compiles kernels, which no capture allows
            self.graph, self._shape = None, blurred.shape
            return self.run(blurred, sharp)
        if self.graph is None:
            for network in ("generator", "critic"):
                self.optimizers.zero_grad(network)  # so that gradients are allocated in the graph's own memory
            self.graph = CapturedStep(self.run, blurred, sharp)
            self.processes.graphs.add(self.graph.graph)
        return self.graph(blurred, sharp)

    def _out_of_memory(self, blurred: Tensor, error: Exception) -> TrainingError:
        n, _, h, w = blurred.shape
        graphs = ", or switch graphs off" if self.why_eager() is None else ""
        remedy = f"lower batch_size or crop, or raise accumulate{graphs}"
        return TrainingError(f"a step on {n} crops of {(h, w)} does not fit into the GPU's memory: {remedy} ({error})")

    def run(self, blurred: Tensor, sharp: Tensor) -> Tensor:
        """The launches of a step, one after another; returns its measures, fp32 [len(self.measures)]."""
        parts = self._parts(to_network(blurred), to_network(sharp))
        # What a single part's pictures come from is kept for the generator's update; that of several would take the
        # memory that parts are to save
        kept = self.restore(parts[0].blurred) if len(parts) == 1 else None
        values = dict.fromkeys(self.measures, self.optimizers.rate.new_zeros(()))  # the losses' sums over the parts
        skip = values["critic"]  # 1 from the first update on that is not finite
        if self.critic_gradients is not None:
            restored = [(self.restore(part.blurred, part.first) if kept is None else kept).detach() for part in parts]
            skip = self._update_critic(self.critic_gradients, parts, restored, values, skip)
        self.optimizers.zero_grad("generator")
        terms = []
        for part in parts:
            picture = self.restore(part.blurred, part.first) if kept is None else kept
            terms.append(
                generator_losses(
                    self.config, self.networks, picture, part.sharp, precision=self.precision, own=self.losses
                )
            )
            self.optimizers.backward(terms[-1].values())
        values |= _summed(terms)
        losses = torch.stack([values[name] for name in (*LOSSES, *self.losses)])
        skip, generator_grad = self._update("generator", skip, losses)
        self.skipped_steps.add_(1).mul_(skip.long())
        if self.average is not None:
            self.average.update(self.networks.generator, skip)
        return torch.stack([*losses, values["critic_grad"], generator_grad])

    def _parts(self, blurred: Tensor, sharp: Tensor) -> list[_Part]:
        size = len(sharp) // self.config.accumulate
        pairs = zip(blurred.split(size), sharp.split(size), strict=True)
        return [_Part(*pair, first=i * size) for i, pair in enumerate(pairs)]

    def restore(self, blurred: Tensor, first: int = 0) -> Tensor:
        """The generator's pictures of blurred ones [n, 3, h, w] in [-1, 1], fp32, with this step's dropout; `first` is
        the index of the first one in this process's share of the batch."""
        counter = _moved(self.dropout_counter, first) if self.networks.generator.spec.dropout else None
        with autocast(self.device, self.precision):
            return self._generator(blurred, counter=counter).float()

    def _update_critic(
        self,
        gradients: CriticGradients,
        parts: list[_Part],
        restored: list[Tensor],
        values: dict[str, Tensor],
        skip: Tensor,
    ) -> Tensor:
        """The critic's updates; puts the last one's measures into `values` and returns whether to skip what follows."""
        counter = self.alpha_counter.clone()
        with gradients.trained():
            for _ in range(self.config.critic_steps):
                self.optimizers.zero_grad("critic")
                terms = [
                    gradients(part.sharp, pictures, _moved(counter, part.first if self._alpha_by_crop else 0))
                    for part, pictures in zip(parts, restored, strict=True)
                ]
                values |= _summed(terms)
                skip, values["critic_grad"] = self._update("critic", skip)
                counter[1] += sum(len(part.sharp) for part in parts) * self.processes.count
        return skip

    def _update(self, network: str, skip: Tensor, *sums: Tensor) -> tuple[Tensor, Tensor]:
        """`Optimizers.update` by the mean gradients of all parts and processes; of `sums`, too, it makes such means."""
        self.processes.average([*self.optimizers.gradients(network), *sums], self.config.accumulate)
        return self.optimizers.update(network, skip)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, average, the optimisers' moments and fp16's loss scale, as tensors by name."""
        state = {
            f"{owner}.{name}": value
            for owner, net in self._saved_networks().items()
            for name, value in net.state_dict().items()
        }
        return state | self.optimizers.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError or RuntimeError for that of another network."""
        for owner, net in self._saved_networks().items():
            net.load_state_dict(part_of(state, f"{owner}."))
        self.optimizers.load_state_dict(state)
        self.graph = self._shape = None  # a captured graph would go on with the moments that were replaced

    def _saved_networks(self) -> dict[str, torch.nn.Module]:
        generator, critic, average, _ = self.networks
        named = {"generator": generator, "critic": critic, "average": average}
        return {name: net for name, net in named.items() if net is not None}


def _summed(terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sums of losses over the parts, by name."""
    first, *others = ({name: value.detach().float() for name, value in of_part.items()} for of_part in terms)
    return {name: sum((other[name] for other in others), start=value) for name, value in first.items()}


def _moved(counter: Tensor, by: int) -> Tensor:
    """The counter whose first index is `by` further on."""
    if not by:
        return counter
    moved = counter.clone()
    moved[1] += by
    return moved
