"""Training by two processes: what one process does, on both alike, and an end for both."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from side_by_side import pytestmark, side_by_side  # noqa: F401
from test_step import SMALL as SMALL_STEP
from test_step import new_networks
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from conftest import relative_error, texture
from deblurgan import checkpoint, cli, distributed, images
from deblurgan.config import train_config
from deblurgan.data import Batches, Crops, SharpFolder
from deblurgan.distributed import Processes
from deblurgan.nn import Critic
from deblurgan.training import Step, Trainer
from small_training import SMALL, history, same

CASES: dict[str, dict[str, Any]] = {
    "sample": {},
    "pixel": {"gp_norm": "pixel"},
    "parts": {"accumulate": 2},
    "autograd": {"gan": "lsgan", "tv_weight": 0.1},
}
RUNS: dict[str, dict[str, Any]] = {
    "straight": {},
    "bf16, in parts": {"accumulate": 2, "precision": "bf16", "gan": "none", "critic_steps": 5},
    "fp16, muon": {"precision": "fp16", "optimizer": "muon", "gan": "none", "critic_steps": 5, "steps": 2},
}
RUN = {
    **SMALL,
    "gan": "wgan-gp",
    "critic_steps": 1,
    "crop": 32,
    "dropout": 0.5,
    "batch_size": 4,
    "ema": 0.9,
    "max_bad_fraction": 0.5,
    "steps": 4,
    "val_every": 4,
}


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    return tuple(torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=random) for _ in range(2))


def gradients(processes: Processes, **options: Any) -> dict[str, Tensor]:
    """Of each update in two steps at the learning rate 0, and the steps' measures."""
    config = train_config("unused", **{**SMALL_STEP, "batch_size": 4, **options})
    step, seen = Step(config, new_networks(config), processes), {}
    update = step.optimizers.update

    def recorded(network: str, skip: Tensor) -> tuple[Tensor, Tensor]:
        seen[f"{network}{len(seen)}"] = torch.cat([g.flatten() for g in step.optimizers.gradients(network)])
        return update(network, skip)

    step.optimizers.update = recorded  # type: ignore[method-assign]
    rows = processes.rows(4, config.accumulate)
    for number in range(2):
        values = step(*(part[rows.start : rows.stop] for part in batch()), number=number, rate=0.0)
        seen[f"measures{number}"] = values
    return seen


def trained(out: Path, photos: Path, processes: Processes, **options: Any) -> dict[str, Tensor]:
    """All that a state holds after a training."""
    run = Trainer(train_config(photos, out=out, **{**RUN, **options}), processes=processes, log=print)
    run.fit()
    return run.state_dict()


def digest(state: dict[str, Tensor]) -> str:
    summed = hashlib.sha256()
    for name in sorted(state):
        summed.update(name.encode() + state[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return summed.hexdigest()


def interrupted(run: Trainer, step: int, number: int) -> Trainer:
    """A training whose process gets a signal in the middle of that step."""
    whole = run.one_step.run

    def run_and_send(*pictures: Tensor) -> Tensor:
        if run.steps_done == step:
            os.kill(os.getpid(), number)
        return whole(*pictures)

    run.one_step.run = run_and_send  # type: ignore[method-assign]
    return run


def work(rank: int, folder: Path, photos: Path) -> int:
    """All that two processes are to show, in one start; the results go to files, and rank 1 is killed in the end."""
    with distributed.joined("the same command goes on", watched=True) as processes:
        found: dict[str, Any] = {name: gradients(processes, **options) for name, options in CASES.items()}
        found["first weights"] = Step(*uneven(rank), processes).networks.generator.head.weight.detach()
        for name, options in RUNS.items():
            found[name] = trained(folder / name, photos, processes, **options)
        stopped = Trainer(train_config(photos, out=folder / "resumed", **RUN), processes=processes, log=print)
        try:
            (interrupted(stopped, 2, signal.SIGTERM) if rank == 1 else stopped).fit()
        except SystemExit as stop:
            found["stopped"] = torch.tensor([int(stop.code or 0), stopped.steps_done])
        found["resumed"] = trained(folder / "resumed", photos, processes)
        torch.save(found, folder / f"found{rank}.pt")

        killed = Trainer(
            train_config(photos, out=folder / "killed", **{**RUN, **RUNS["bf16, in parts"]}), processes=processes
        )
        try:
            (interrupted(killed, 2, signal.SIGKILL) if rank == 1 else killed).fit()
        except RuntimeError as error:
            print(error, flush=True)
            distributed.GRACE = 0.1
            time.sleep(30)  # as one does that waits for a GPU
    return 0


def uneven(rank: int) -> tuple[Any, Any]:
    """A config and networks that are others in each process."""
    config = train_config("unused", **SMALL_STEP)
    networks = new_networks(config)
    with torch.no_grad():
        networks.generator.head.weight.fill_(rank + 1)
    return config, networks


class Both(NamedTuple):
    """What two processes have found, and the gradients of one with the whole batch."""

    folder: Path
    photos: Path
    codes: list[int | None]
    said: list[str]
    found: list[dict[str, Any]]
    wanted: dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module", autouse=True)
def small_critic() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Critic.__init__, "__defaults__", (4, 2, 2))
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("two")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(4):
        images.write(images.Picture(texture(72, 96, seed=i)), photos / f"{i}.png")
    (photos / "bad.png").write_bytes(b"none")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Before the others start, so that they need not import again what a step imports
    wanted = {name: gradients(Processes(), **{**options, "accumulate": 1}) for name, options in CASES.items()}
    torch.set_num_threads(threads)
    codes, said = side_by_side(folder, lambda rank: work(rank, folder, photos))
    assert (folder / "found1.pt").exists(), said
    found = [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in range(2)]
    return Both(folder, photos, codes, said, found, wanted)


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_one_process_with_the_whole_batch(name: str, both: Both) -> None:
    wanted = both.wanted[name]
    assert len(wanted) == 2 * (SMALL_STEP["critic_steps"] + 1) + 2
    for found in both.found:
        assert found[name].keys() == wanted.keys()
        for update, gradient in wanted.items():
            assert relative_error(found[name][update], gradient) < 1e-6, update


def test_processes_stay_alike_bit_for_bit_and_begin_with_the_first_one_s_weights(both: Both) -> None:
    for name in RUNS:
        first, second = (digest(found[name]) for found in both.found)
        assert first == second, name
    assert all((found["first weights"] == 1).all() for found in both.found)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_two_parts_do_in_one(name: str, both: Both, tmp_path: Path, one_thread: None) -> None:
    """Both add the same two gradients."""
    options = {**RUNS[name], "accumulate": 2 * RUNS[name].get("accumulate", 1)}
    wanted = trained(tmp_path, both.photos, Processes(), **options)
    found = both.found[0][name]
    for tensor in wanted:
        assert relative_error(found[tensor].float(), wanted[tensor].float()) < 1e-5, tensor
    ours, theirs = history(both.folder / name), history(tmp_path)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [float(row["pixel"] or 0) for row in ours] == pytest.approx([float(row["pixel"] or 0) for row in theirs])


def test_a_signal_to_one_stops_both_at_one_step_and_the_resumed_run_equals_a_straight_one(both: Both) -> None:
    assert [found["stopped"].tolist() for found in both.found] == [[143, 3], [143, 3]]
    assert all(same(found["resumed"], found["straight"]) for found in both.found)
    assert [text.count("SIGTERM: step 3 is saved, the same command goes on from there") for text in both.said] == [1, 0]
    assert [text.count("resumed at step 3") for text in both.said] == [1, 0]


def test_the_first_speaks_for_both(both: Both) -> None:
    assert "2 processes over gloo, each step in plain torch" in both.said[0]
    assert both.said[0].count("left out bad.png") == len(RUNS) + 2
    assert both.said[1] == ""


def test_a_process_that_is_killed_ends_the_other_whatever_it_waits_for(both: Both) -> None:
    assert both.codes == [1, -signal.SIGKILL]
    message = "another process of this run has ended before its work was done; the same command goes on"
    assert both.said[0].splitlines()[-2:] == [message, "deblurgan: ends, as another process of this run has ended"]


class Graph:
    """What stands for a CUDA graph that holds an all-reduce."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1


def in_torchrun(words: list[str]) -> tuple[int, int, int]:
    """What a process of torchrun's does that joins the others twice; graphs that went before the groups."""
    torch.set_num_threads(1)
    graph: Any = Graph()
    with distributed.joined() as processes:
        processes.graphs.add(graph)
        largest = processes.largest(processes.rank)
    return largest, graph.resets, cli.main(words)


def test_in_torchrun_s_processes(both: Both, capfd: pytest.CaptureFixture[str]) -> None:
    """As torchrun starts them but forked, which saves them their imports."""
    run = both.folder / "torchrun"
    options = {**RUN, **RUNS["bf16, in parts"]}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    fixed: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    launch = LaunchConfig(1, 1, 2, **fixed, start_method="fork", monitor_interval=0.05, max_restarts=0)
    found = elastic_launch(launch, in_torchrun)(["train", str(both.photos), "-o", str(run), *words])
    assert found == dict.fromkeys(range(2), (1, 1, 0))
    assert capfd.readouterr().out.count("4 steps, best validation PSNR") == 1
    last = [checkpoint.load_tensors(out / "last.safetensors")[0] for out in (run, both.folder / "bf16, in parts")]
    assert same(*last)


def test_shares_are_equal_and_make_up_the_batch() -> None:
    assert [Processes(rank, 3).rows(12, 2) for rank in range(3)] == [range(0, 4), range(4, 8), range(8, 12)]
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of 8 \(4 processes x accumulate 2\), got 12"):
        Processes(0, 4).rows(12, 2)


def test_processes_with_other_pictures_are_refused(photos: Path, tmp_path: Path) -> None:
    class Two(Processes):
        def gathered(self, results: list[Any]) -> list[Any]:
            return [*results, "other"]

    with pytest.raises(ValueError, match="data must hold the same pictures for all processes"):
        Trainer(train_config(photos, out=tmp_path, **SMALL), processes=Two())


def test_each_share_is_made_of_its_rows(both: Both) -> None:
    pictures = SharpFolder(both.photos, crops=Crops(32))
    whole = Batches(pictures, 4)[3]
    parts = [Batches(pictures, 4, rows=Processes(rank, 2).rows(4))[3] for rank in range(2)]
    assert torch.equal(whole.blurred, torch.cat([part.blurred for part in parts]))
    assert whole.bad == parts[0].bad | parts[1].bad


def test_parts_must_divide_what_a_step_is_given() -> None:
    config = train_config("unused", **{**SMALL_STEP, "accumulate": 2})
    with pytest.raises(ValueError, match="blurred must hold a multiple of accumulate 2, got 3"):
        Step(config, new_networks(config))(*batch(3), number=0, rate=1e-3)


class Saved:
    """A tensor that waits for a backward pass; `alive` and `peak` count the bytes of all."""

    alive = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an output that is saved would hold its own graph
        Saved.alive += tensor.nbytes
        Saved.peak = max(Saved.peak, Saved.alive)

    def __del__(self) -> None:
        Saved.alive -= self.tensor.nbytes


def peak_of_saved(accumulate: int) -> int:
    config = train_config("unused", **{**SMALL_STEP, "accumulate": accumulate})
    step = Step(config, new_networks(config))
    Saved.alive = Saved.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        step(*batch(), number=0, rate=1e-3)
    assert Saved.alive == 0
    return Saved.peak


def test_parts_take_the_memory_of_one(one_thread: None) -> None:
    assert peak_of_saved(2) < 0.55 * peak_of_saved(1)


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.local_device("cuda:0") == "cuda:0", "alone"
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert [distributed.local_device(name) for name in ("auto", "cuda", "cuda:0")] == ["cuda:1"] * 3
    assert distributed.local_device("cpu") == "cpu"


@pytest.mark.parametrize(("other", "wanted"), [("GPU-2", "nccl"), ("GPU-1", "gloo")])
def test_gpus_average_over_nccl_unless_processes_share_them(
    other: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two(Processes):
        def gathered(self, results: list[Any]) -> list[Any]:
            return [*results, other]

    monkeypatch.setattr(distributed, "_gpu", lambda device: "GPU-1")
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert Two(0, 2).backend(torch.device("cuda", 0)) == wanted
    assert Two(0, 2).backend(torch.device("cpu")) == "gloo"


def test_one_alone_speaks_whatever_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert distributed.leads()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not distributed.leads()
