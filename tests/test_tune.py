"""`deblurgan tune`: what is measured, in which order, and what becomes of it. Times and the GPU are faked."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import deblurgan
from conftest import KERNEL_DEVICE
from deblurgan import TuneConfig, cli
from deblurgan.kernels import candidates as listed
from deblurgan.kernels import rows
from deblurgan.kernels.candidates import CANDIDATES, candidates
from deblurgan.kernels.config import ConvConfig, Gpu
from deblurgan.kernels.rows import Row
from deblurgan.kernels.table import Table, config_picker
from deblurgan.tuning import compiling, run
from deblurgan.tuning import measure as measuring
from deblurgan.tuning.compiling import Compiler
from deblurgan.tuning.measure import Result, row_of
from deblurgan.tuning.problems import Problem, Size, Work, make_problem

pytest.importorskip("triton", reason="triton is not installed")

H200 = Gpu("NVIDIA H200", (9, 0), 132)
A100 = Gpu("NVIDIA A100", (8, 0), 108)
TRUNK = Work("paper", "blocks.0.conv1", "", Size(1, 8, 12), torch.float16)
FAST, SLOW = CANDIDATES["trunk"][:2]
SMALL = TuneConfig(sizes=("8x12",), crops=("8x12",))


def layer(name: str, gradient: str = "", preset: str = "paper") -> Work:
    return Work(preset, name, gradient, Size(1, 8, 12), torch.bfloat16 if gradient else torch.float16)


# What is measured: in the interpreter


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates each, and every call takes a second."""
    monkeypatch.setattr(listed, "CANDIDATES", {kind: [configs[0], configs[-1]] for kind, configs in CANDIDATES.items()})
    for name in ("UNEVEN", "POINTER8", "PAIRS"):
        monkeypatch.setattr(listed, name, getattr(listed, name)[:1])
    monkeypatch.setattr(measuring, "seconds", lambda call: 1.0)


@pytest.mark.parametrize("name", ["stem", "down.0", "blocks.0.conv1", "up.1", "head"])
def test_every_layer_is_measured_with_its_candidates(name: str, few: None, few_programs: None) -> None:
    for preset in ("paper", "tiny") if name == "blocks.0.conv1" else ("tiny",):
        work = layer(name, preset=preset)
        configs = candidates(work.shape, H200)
        result = measuring.measure(work, make_problem(work, KERNEL_DEVICE), configs)
        assert not result.failed
        assert result.library == 1.0
        assert list(result.ours) == configs


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_the_blocks_are_measured_in_8_bits(dtype: torch.dtype, few: None, few_programs: None) -> None:
    work = TRUNK._replace(dtype=dtype)
    result = measuring.measure(work, make_problem(work, KERNEL_DEVICE), candidates(work.shape, H200))
    assert not result.failed
    assert {config.form for config in result.ours} == {"tma", "pointer"}


@pytest.mark.parametrize("name", ["stem", "down.1", "blocks.0.conv1", "up.0", "head"])
def test_every_gradient_is_measured_with_its_candidates(name: str, few: None, few_programs: None) -> None:
    for gradient in ("dgrad", "wgrad")[name == "stem" :]:
        work = layer(name, gradient, "tiny")._replace(dtype=torch.float16)
        configs = candidates(work.shape, H200)
        result = measuring.measure(work, make_problem(work, KERNEL_DEVICE), configs)
        assert not result.failed
        assert list(result.ours) == configs


def test_gradients_are_timed_as_training_makes_them(monkeypatch: pytest.MonkeyPatch, few_programs: None) -> None:
    from deblurgan.kernels import norm_act_grad
    from deblurgan.ops import conv_grad

    made: list[str] = []

    def record(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            if module is conv_grad:
                assert (options["adjoint"] is not None) == (args[0].kind == "trunk")
            made.append(name)
            return original(*args, **options)

        monkeypatch.setattr(module, name, call)

    record(conv_grad, "input_gradient")
    record(conv_grad, "activation_gradient")
    record(norm_act_grad, "norm_act_reduce")
    residual = ["input_gradient"], ["input_gradient"]  # with our kernel, in cuDNN
    activations = ["activation_gradient"], ["input_gradient", "norm_act_reduce"]
    wanted = {
        "down.1": activations,
        "blocks.0.conv1": (residual[0] + activations[0], residual[1] + activations[1]),
        "up.0": residual,
        "head": activations,
    }
    for name, ways in wanted.items():
        problem = make_problem(layer(name, "dgrad")._replace(dtype=torch.float16), KERNEL_DEVICE)
        for config, parts in zip((ConvConfig(64, 64, 64), None), ways, strict=True):
            made.clear()
            problem.run(config)
            assert made == parts, name


def test_work_is_counted_in_multiplications() -> None:
    trunk = 2 * 9 * 256 * 256 * 2 * 3
    assert TRUNK.flops == trunk
    assert layer("blocks.0.conv1", "wgrad").flops == trunk
    assert layer("blocks.0.conv1", "dgrad").flops == 2 * trunk, "of both layers of a block"
    assert layer("blocks.0.conv1", "dgrad", "article").flops == trunk
    assert layer("up.0").flops == layer("down.1").flops == 2 * 9 * 256 * 128 * 2 * 3
    assert layer("head").flops == layer("stem").flops == 2 * 49 * 64 * 3 * 8 * 12


# The time of one


def fake_problem(**results: float) -> Problem:
    """Gives a number by tiling; 1 is right."""
    return Problem(
        torch.float16,
        lambda config: torch.tensor(results.get("library" if config is None else f"m{config.block_m}", 1.0)),
        torch.Tensor.float,
        lambda: torch.ones(()),
    )


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "seconds", lambda call: 1.0)
    configs = [ConvConfig(32), ConvConfig(64), ConvConfig(128)]
    result = measuring.measure(TRUNK, fake_problem(m32=1.01, m64=float("nan"), m128=1.001), configs)
    assert result.ours == {configs[2]: 1.0}
    assert result.failed.keys() == set(configs[:2])
    assert result.failed[configs[0]].startswith("ArithmeticError: relative error 0.01")


def test_an_error_is_one_candidate_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = configs = [ConvConfig(32), ConvConfig(64), ConvConfig(128)]
    problem = fake_problem()

    def launched(config: ConvConfig | None) -> Any:
        if config == first:
            raise RuntimeError("no such instruction")
        return problem.run(config)

    def seconds(call: Any) -> float:
        if call.args == (second,):
            raise ValueError("cannot be captured")
        return 1.0

    monkeypatch.setattr(measuring, "seconds", seconds)
    result = measuring.measure(TRUNK, replace(problem, run=launched), configs)
    assert result.failed == {first: "RuntimeError: no such instruction", second: "ValueError: cannot be captured"}
    assert (result.ours, result.library) == ({third: 1.0}, 1.0)


def test_a_row_says_what_is_the_fastest() -> None:
    def found(work: Work, library: float, ours: dict[ConvConfig, float]) -> Row | None:
        lost: dict[ConvConfig | None, str] = {None: "lost"} if library == float("inf") else {}
        return row_of(Result(work, library, ours, lost), H200, "s")

    assert found(TRUNK, 3e-5, {FAST: 1e-5, SLOW: 2e-5}) == Row(H200, TRUNK.shape, FAST, "s")
    assert found(TRUNK, 1e-5, {FAST: 1e-5}) == Row(H200, TRUNK.shape, None, "s")
    assert found(TRUNK, 1e-5, {}) == Row(H200, TRUNK.shape, None, "s"), "the default fails here"
    assert found(TRUNK, float("inf"), {SLOW: 1.0}) == Row(H200, TRUNK.shape, SLOW, "s")
    assert found(TRUNK, float("inf"), {}) is None
    for alone in (layer("head"), TRUNK._replace(dtype=torch.int8)):  # cuDNN is no choice
        assert found(alone, 1e-5, {FAST: 2e-5}) == Row(H200, alone.shape, FAST, "s")
        assert found(alone, 1e-5, {}) is None


def test_wins_and_losses_are_printed() -> None:
    won = measuring.line(Result(TRUNK, 2e-5, {FAST: 1e-5, SLOW: 3e-5}), 41.6)
    assert won == "| paper blocks | 8x12x1 | float16 | tma 128x128x64 w4 s3 | 10.0 | 1 | 20.0 | 2.00 | 42 |"
    assert "| 20.0 | 0.50 | 0 |" in measuring.line(Result(TRUNK, 2e-5, {SLOW: 4e-5}), -3.0)
    assert measuring.line(Result(TRUNK, 2e-5), 1.0).count("|") == won.count("|") == len(measuring.HEADINGS) + 1


# The whole


class Ready:
    """In place of the Compiler: what is named in `broken` fails, `unfinished` never ends, all else is there."""

    broken: tuple[ConvConfig, ...] = ()
    unfinished: tuple[ConvConfig, ...] = ()

    def __init__(self, capability: tuple[int, int], processes: int) -> None:
        assert capability == H200.capability

    def __enter__(self) -> Ready:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Work, config: ConvConfig | None) -> Future[None]:
        future: Future[None] = Future()
        if config in self.broken:
            future.set_exception(RuntimeError("too much shared memory"))
        elif config not in self.unfinished:
            future.set_result(None)
        return future


Measure = Callable[[Work, Any, Sequence[ConvConfig]], Result]


def by_order(work: Work, problem: Any, configs: Sequence[ConvConfig]) -> Result:
    """The second candidate is the fastest."""
    return Result(work, 3.0, {config: 1.0 + abs(i - 1) for i, config in enumerate(configs)})


@pytest.fixture
def table(kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's, for a faked H200 on which nothing is compiled, launched or timed."""
    monkeypatch.setenv("DEBLURGAN_TABLE", str(tmp_path / "table.json"))
    monkeypatch.setattr(run, "current_gpu", lambda device: H200)
    monkeypatch.setattr(run, "Compiler", Ready)
    monkeypatch.setattr(run, "make_problem", lambda work, device: None)
    monkeypatch.setattr(run, "measure", by_order)
    config_picker.cache_clear()
    return tmp_path / "table.json"


def test_the_fastest_is_used_from_now_on(table: Path) -> None:
    shape = TRUNK.shape
    with pytest.warns(UserWarning, match="run `deblurgan tune`"):
        before = config_picker(H200).choice(shape)
    found = deblurgan.tune(replace(SMALL, preset=("paper",)))
    after = config_picker(H200).choice(shape)
    config_picker.cache_clear()
    assert before.source == "the default for sm_90"
    assert after == (candidates(shape, H200)[1], "the user's table")
    assert sorted(rows.read(table), key=str) == sorted(found, key=str)
    assert len(found) == 7 + 13
    assert {row.software for row in found} == {rows.software()}


def test_blocks_come_first_and_what_is_known_last(table: Path) -> None:
    asked: list[str] = []
    log: Callable[[str], None] = lambda text: asked.append(text)  # noqa: E731
    options = replace(SMALL, preset=("paper", "article", "tiny"))
    rows.merge(table, [Row(H200, TRUNK.shape, None, rows.software()), Row(A100, TRUNK.shape, None, rows.software())])
    deblurgan.tune(options, log=log)
    names = [text.split(" | ")[0].removeprefix("| ") for text in asked[1:]]
    blocks = ["tiny blocks", *(f"{preset} blocks {of}" for preset in ("paper", "tiny") for of in ("dgrad", "wgrad"))]
    assert names[:5] == blocks, "article's layers are paper's"
    assert names[5:7] == ["paper stem", "paper down.0"]
    assert names[-1] == "paper blocks"
    assert len(names) == len(set(names)) == 40


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"forward_only": True}, {(torch.float16, False)}),
        ({"gradients_only": True}, {(torch.bfloat16, True)}),
        ({"dtype": "bf16"}, {(torch.bfloat16, False), (torch.bfloat16, True)}),
        ({"dtype": "fp8"}, {(torch.float8_e4m3fn, False)}),
    ],
    ids=["forward", "gradients", "bf16", "fp8"],
)
def test_options_say_what_is_measured(options: dict[str, Any], wanted: set[tuple[Any, bool]], table: Path) -> None:
    found = deblurgan.tune(replace(SMALL, preset=("paper",), **options))
    assert {(row.shape.dtype, "." in row.shape.kind) for row in found} == wanted
    assert len(found) == (1 if options.get("dtype") == "fp8" else len(found))


def test_sizes_are_pictures_and_crops_those_of_gradients(table: Path) -> None:
    found = deblurgan.tune(TuneConfig(preset=("paper",), sizes=("8x12", "16x16x2"), crops=("32x32x3",)))
    of_heads = {row.shape.kind: row.shape.pixels for row in found if row.shape.kind.startswith("head")}
    assert of_heads == {"head": 512, "head.dgrad": 3072, "head.wgrad": 3072}
    assert len(found) == 2 * 7 + 13


def test_the_budget_ends_it_between_layers(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(work: Work, problem: Any, configs: Sequence[ConvConfig]) -> Result:
        now[0] += 40.0
        return by_order(work, problem, configs)

    lines: list[str] = []
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run, "measure", slow)
    assert len(deblurgan.tune(SMALL, log=lines.append)) == 3
    assert [line.split(" | ")[-1] for line in lines[1:4]] == ["50 |", "10 |", "0 |"]
    assert lines[4] == "\nThe budget is spent: 3 of 40 are measured, another run goes on with the rest."
    assert len(rows.read(table)) == 3
    assert len(deblurgan.tune(SMALL)) == 3
    assert len(rows.read(table)) == 6, "of other layers than the first time"


def test_what_is_compiled_in_time_is_measured(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default, *others = candidates(TRUNK.shape, H200)
    monkeypatch.setattr(Ready, "unfinished", tuple(others[1:]))
    monkeypatch.setattr(Ready, "broken", (others[0],))
    lines: list[str] = []
    found = deblurgan.tune(replace(SMALL, budget=0.05, preset=("paper",)), log=lines.append)
    assert found == [Row(H200, TRUNK.shape, default, rows.software())]
    assert "tma 128x128x64 w4 s3: too much shared memory" in lines
    monkeypatch.setattr(Ready, "unfinished", (default, *others[1:]))
    table.unlink()
    assert deblurgan.tune(replace(SMALL, budget=0.05)) == [], "nothing is ready"


def test_where_nothing_compiles_cudnn_is_the_row(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ready, "broken", tuple(candidates(TRUNK.shape, H200)))
    found = deblurgan.tune(replace(SMALL, preset=("paper",)))
    assert found[0] == Row(H200, TRUNK.shape, None, rows.software())
    assert Table(H200, tuple(found)).choice(TRUNK.shape) == (None, "the user's table")


def test_a_layer_too_large_for_the_memory_is_left_out(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: Work, device: torch.device) -> None:
        if work.layer == "stem":
            raise torch.OutOfMemoryError("CUDA out of memory")

    lines: list[str] = []
    monkeypatch.setattr(run, "make_problem", full)
    assert len(deblurgan.tune(replace(SMALL, preset=("paper",)), log=lines.append)) == 20 - 2
    assert lines.count("cuDNN: CUDA out of memory") == 2


def test_every_time_is_kept_where_asked(table: Path, tmp_path: Path) -> None:
    options = replace(SMALL, preset=("paper",), forward_only=True, json=tmp_path / "times.json")
    deblurgan.tune(options)
    content = json.loads((tmp_path / "times.json").read_text())
    assert content["gpu"] == {"name": H200.name, "capability": [9, 0], "sms": 132}
    assert [entry["layer"] for entry in content["results"]][:2] == ["paper blocks", "paper stem"]
    first = content["results"][0]
    assert (first["kind"], first["c_in"], first["pixels"], first["dtype"]) == ("trunk", 256, 6, "float16")
    assert first["cudnn_s"] == 3.0
    assert len(first["ours_s"]) == len(candidates(TRUNK.shape, H200))
    with pytest.raises(OSError, match="missing"):
        deblurgan.tune(replace(options, json=tmp_path / "missing" / "times.json"))


def test_rows_that_ship_are_of_any_software(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "shipped.json"
    rows.merge(path, [Row(A100, TRUNK.shape, FAST)])
    deblurgan.tune(replace(SMALL, preset=("paper",), table=path, any_software=True))
    assert {row.software for row in rows.read(path)} == {""}
    assert len(rows.read(path)) == 21
    assert not table.exists()
    assert Table(H200, (), tuple(rows.read(path))).choice(TRUNK.shape).source == "the shipped table"


def test_the_caller_s_settings_stay(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(work: Work, problem: Any, configs: Sequence[ConvConfig]) -> Result:
        seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()))
        return by_order(work, problem, configs)

    monkeypatch.setattr(run, "measure", look)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    deblurgan.tune(replace(SMALL, preset=("paper",)))
    assert set(seen) == {(False, False, False)}
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.allow_tf32
    assert torch.equal(torch.get_rng_state(), before)


# Stopped, side by side, in the way


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_it_keeps_its_rows(number: signal.Signals, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [Row(A100, TRUNK.shape, FAST, "torch 1")]
    rows.merge(table, before)
    done = []

    def stopped(work: Work, problem: Any, configs: Sequence[ConvConfig]) -> Result:
        if len(done) == 3:
            os.kill(os.getpid(), number)
        done.append(work)
        return by_order(work, problem, configs)

    def child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stderr = io.StringIO()
        deblurgan.tune(SMALL)

    monkeypatch.setattr(run, "measure", stopped)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == (1 if number == signal.SIGINT else -number)
    kept = rows.read(table)
    assert len(kept) == 3 + 1
    assert before[0] in kept
    assert [path.name for path in table.parent.iterdir()] == ["table.json"]


def test_two_at_once_lose_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.json"

    def child(first: int) -> None:
        for i in range(20):
            rows.merge(path, [Row(H200, TRUNK.shape._replace(pixels=first + i), FAST)])

    children = [multiprocessing.get_context("fork").Process(target=child, args=(100 * i,)) for i in range(1, 4)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
    assert len(rows.read(path)) == 60


def test_a_newer_row_replaces_its_own_alone(tmp_path: Path) -> None:
    path, old = tmp_path / "new" / "table.json", Row(H200, TRUNK.shape, FAST, "torch 1")
    others = [
        old._replace(gpu=A100),
        old._replace(software="torch 2"),
        old._replace(shape=TRUNK.shape._replace(pixels=7)),
        old._replace(shape=TRUNK.shape._replace(dtype=torch.bfloat16)),
    ]
    rows.merge(path, [old, *others])
    merged = rows.merge(path, [old._replace(config=None)])
    assert sorted(merged, key=str) == sorted([*others, old._replace(config=None)], key=str)
    assert sorted(rows.read(path), key=str) == sorted(merged, key=str)


@pytest.mark.parametrize("content", ["{", '{"rows": [{"gpu": "an older table"}]}', "\0"])
def test_a_damaged_table_is_refused_and_stays(content: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text(content)
    assert cli.main(["tune"]) == 2
    assert f"{table} is no table of tilings, move it away or name another" in capsys.readouterr().err
    assert table.read_text() == content


def test_a_table_that_cannot_be_written_is_found_before_the_work(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("it was measured"))
    (table.parent / "file").touch()
    assert cli.main(["tune", "-o", str(table.parent / "file" / "table.json")]) == 2
    assert "file" in capsys.readouterr().err


def test_the_command_prints_a_line_a_layer(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--preset", "tiny", "--sizes", "8x8", "--forward-only"]) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first == f"NVIDIA H200, rows to {table}"
    assert len(lines) == 2 + 7
    assert lines[2].startswith("| tiny blocks | 8x8x1 | float16 | ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="would tune")
def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEBLURGAN_TABLE", str(tmp_path / "table.json"))
    assert cli.main(["tune"]) == 2
    assert "device must be a GPU that our kernels run on, got cpu: it needs a CUDA device" in capsys.readouterr().err
    assert cli.main(["tune", "--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_type_that_no_kernel_multiplies_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "candidates", lambda shape, gpu: [])
    with pytest.raises(ValueError, match="dtype must be one that our kernels multiply on NVIDIA H200, got fp8"):
        deblurgan.tune(replace(SMALL, dtype="fp8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be positive, got 0"),
        ({"forward_only": True, "gradients_only": True}, "contradict each other"),
        ({"gradients_only": True, "dtype": "int8"}, "dtype must be fp16 or bf16 with gradients_only=True, got int8"),
        ({"preset": ()}, "preset must hold at least one"),
        ({"sizes": ()}, "sizes must hold at least one"),
        ({"sizes": ("720p",)}, "sizes must be like 720x1280 or 256x256x16, got '720p'"),
        ({"sizes": ("8x8x1x1",)}, "sizes must be like"),
        ({"sizes": ("-8x8",)}, "sizes must be like"),
        ({"crops": ("8x6",)}, "crops must have sides that are multiples of 4 and at least 8, got '8x6'"),
        ({"crops": ("4x8",)}, "crops must have sides"),
        ({"crops": ("8x8x0",)}, "crops must be for 1 picture or more, got '8x8x0'"),
        ({"preset": ("huge",)}, "preset must be one of paper, article, tiny, got 'huge'"),
    ],
    ids=str,
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneConfig(**options)


# Compiled ahead


def test_kernels_are_compiled_into_triton_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    work = Work("tiny", "down.0", "", Size(1, 8, 8), torch.float16)
    with Compiler((8, 0), 1) as compiler:
        good, bad = (compiler.submit(work, ConvConfig(block_m, 32, 16)) for block_m in (64, 100))
        good.result(timeout=300)
        with pytest.raises(RuntimeError, match="CompilationError"):
            bad.result(timeout=300)
    assert [path.name for path in tmp_path.glob("*/conv_stats_kernel.cubin")]


FAKE = """
import os, sys
for line in sys.stdin:
    if "head" in line:
        os.abort()
    if "stem" in line:
        import time
        time.sleep(600)
    print('""', flush=True)
"""


@pytest.fixture
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Those that are started in place of compilers: they abort at the head and are stuck at the stem."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-S", "-c", FAKE], stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    monkeypatch.setattr(compiling, "_start", start)
    return started


def test_a_compiler_that_aborts_fails_one_tiling(fake_processes: list[subprocess.Popen[str]]) -> None:
    with Compiler((9, 0), 2) as compiler:
        jobs = [compiler.submit(layer(name), FAST) for name in ("up.0", "head", "up.1", "head", "down.0")]
        errors = [job.exception(timeout=60) for job in jobs]
    assert [error is None for error in errors] == [True, False, True, False, True]
    assert f"the compiler ended with exit code {-signal.SIGABRT}" in str(errors[1])
    assert len(fake_processes) == 4
    assert all(process.returncode is not None for process in fake_processes)


def test_leaving_the_compiler_ends_its_processes(fake_processes: list[subprocess.Popen[str]]) -> None:
    with Compiler((9, 0), 2) as compiler:
        jobs = [compiler.submit(layer("stem"), FAST) for _ in range(5)]
    assert all(process.returncode is not None for process in fake_processes)
    assert all(job.cancelled() or job.exception() for job in jobs)


def test_a_compiler_answers_each_request_and_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = [], io.StringIO()

    def compiled(work: Work, device: torch.device) -> Problem:
        asked.append(work)
        return replace(fake_problem(), run=lambda config: asked.append(config))

    requests = [compiling._request(TRUNK, config, 90) for config in (FAST, None)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join([*requests, "[]\n"])))
    monkeypatch.setattr(sys, "stdout", answers)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(compiling, "make_problem", compiled)
    monkeypatch.setattr(compiling, "compiling", lambda arch: memoryview(b""))  # any context
    compiling.main()
    monkeypatch.undo()
    assert asked == [TRUNK, FAST, TRUNK, None]
    assert [json.loads(line)[:10] for line in answers.getvalue().splitlines()] == ["", "", "ValueError"]


def test_a_process_for_each_cpu_and_no_more_than_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert [compiling.processes_for(jobs) for jobs in (0, 3, 100)] == [1, 3, 8]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(200)), raising=False)
    assert compiling.processes_for(1000) == compiling.MOST_PROCESSES
