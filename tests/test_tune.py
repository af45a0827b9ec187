"""What `python -m benchmarks.tune` makes of its times, and its candidates; the times themselves are faked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import KERNEL_DEVICE

pytest.importorskip("triton")
ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

from benchmarks import tune  # noqa: E402
from benchmarks.roofline import generator_kernels  # noqa: E402
from benchmarks.tune import CANDIDATES, Case, Result, candidates, fits, merge_rows  # noqa: E402
from deblurgan.kernels.config import ConvConfig  # noqa: E402
from deblurgan.kernels.table import from_table, head_config, quantized_config  # noqa: E402
from deblurgan.spec import PRESETS  # noqa: E402

ARCHS = [80, 86, 89, 90, 100, 120]
SHAPES = {  # channels that the kernels read, and columns of the product, of width 64
    "stem": [(32, 64)],
    "down": [(64, 128), (128, 256)],
    "trunk": [(256, 256)],
    "trunk8": [(256, 256)],
    "up": [(256, 128), (128, 64)],
    "head": [(64, 128)],
    "down.dgrad": [(128, 64), (256, 128)],
    "trunk.dgrad": [(256, 256)],
    "up.dgrad": [(128, 256), (64, 128)],
    "head.dgrad": [(32, 64)],
    "stem.wgrad": [(64, 32)],
    "down.wgrad": [(128, 64), (256, 128)],
    "trunk.wgrad": [(256, 256)],
    "up.wgrad": [(256, 128), (128, 64)],
    "head.wgrad": [(64, 32)],
}
FAST, SLOW = CANDIDATES["trunk"][:2]


def result(
    kind: str, pixels: int, library: float, ours: dict[ConvConfig, float], dtype: torch.dtype = torch.float16
) -> Result:
    kernel = generator_kernels(PRESETS["paper"], 256, 256)[0]
    return Result(Case(kernel, kind, dtype, (1, 256, 256), pixels), library, ours)


def table_row(gpu: str, kind: str, pixels: int, config: ConvConfig, dtype: str = "float16") -> dict[str, Any]:
    return {"gpu": gpu, "kind": kind, "dtype": dtype, "pixels": pixels, "config": asdict(config)}


def power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def test_candidates_are_blocks_that_triton_takes() -> None:
    assert CANDIDATES.keys() == SHAPES.keys()
    for configs in CANDIDATES.values():
        assert len(configs) == len(set(configs))
        for config in configs:
            assert all(power_of_two(side) and side >= 16 for side in (config.block_m, config.block_n, config.block_k))
            assert config.warps in (4, 8)
            assert config.stages >= 2
            assert config.form in ("pointer", "tma")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", SHAPES)
def test_each_layer_has_candidates_that_divide_it(kind: str, arch: int) -> None:
    for c, cout in SHAPES[kind]:
        found = candidates(kind, arch, c, cout)
        assert found or (kind == "trunk8" and arch < 90)
        for config in found:
            assert c % (config.block_m if kind.endswith("wgrad") else config.block_k) == 0
            assert cout % config.block_n == 0
            assert config.form == "pointer" or arch >= 90


def test_only_the_trunk_may_take_tma() -> None:
    assert {kind for kind, configs in CANDIDATES.items() for config in configs if config.form == "tma"} == {
        "trunk",
        "trunk8",
        "trunk.dgrad",
        "trunk.wgrad",
    }


def test_tma_needs_channels_that_divide() -> None:
    config = ConvConfig(128, 64, 64, 4, 4, "tma")
    assert fits(config, 90, 256, 256)
    assert not fits(config, 80, 256, 256)
    assert not fits(config, 90, 96, 192)  # the K loop would lose 32 channels
    assert not fits(config, 90, 128, 96)
    assert fits(replace(config, form="pointer"), 90, 96, 96)


def test_shared_memory_is_the_architectures() -> None:
    config = ConvConfig(128, 256, 64, 8, 4)
    assert fits(config, 90, 256, 256)
    assert fits(config, 80, 256, 256)
    assert not fits(config, 89, 256, 256)
    assert not fits(config, 120, 256, 256)


def test_large_tiles_of_8_bits_are_left_out_where_they_spill() -> None:
    config = ConvConfig(256, 128, 128, 8, 3, "tma")
    assert config in CANDIDATES["trunk8"]
    assert [arch for arch in ARCHS if fits(config, arch, 256, 256, 1)] == [90, 120]


def test_a_row_where_ours_is_faster() -> None:
    won = result("trunk", 4096, 3e-5, {FAST: 1e-5, SLOW: 2e-5})
    assert tune.row(won, "A") == table_row("A", "trunk", 4096, FAST)
    assert tune.row(result("trunk", 4096, 1e-5, {FAST: 1e-5}), "A") is None
    assert tune.row(result("trunk", 4096, 1e-5, {}), "A") is None


def test_where_the_library_is_no_choice_there_is_a_row_in_any_case() -> None:
    config = CANDIDATES["head"][1]
    assert tune.row(result("head", 65536, 1e-5, {config: 2e-5}), "A") == table_row("A", "head", 65536, config)
    quantized = CANDIDATES["trunk8"][1]
    lost = result("trunk8", 4096, 1e-5, {quantized: 2e-5}, torch.int8)
    assert tune.row(lost, "A") == table_row("A", "trunk", 4096, quantized, "int8")


def test_the_default_configurations_are_candidates() -> None:
    assert head_config(from_table("A", []), 65536, torch.float16) in CANDIDATES["head"]
    assert quantized_config(256) in CANDIDATES["trunk8"]


def test_what_was_measured_is_replaced_and_the_rest_stays() -> None:
    others = [
        table_row("B", "trunk", 4096, SLOW),
        table_row("A", "trunk", 65536, SLOW),
        table_row("A", "trunk", 4096, SLOW, "bfloat16"),
        table_row("A", "down", 4096, CANDIDATES["down"][0]),
    ]
    old = [*others, table_row("A", "trunk", 4096, SLOW), table_row("A", "up", 4096, CANDIDATES["up"][0])]
    results = [
        result("trunk", 4096, 2e-5, {FAST: 1e-5, SLOW: 3e-5}),
        result("up", 4096, 1e-5, {CANDIDATES["up"][0]: 2e-5}),  # lost, after it had won
        result("stem", 65536, 2e-5, {CANDIDATES["stem"][0]: 1e-5}),
    ]
    new = [table_row("A", "trunk", 4096, FAST), table_row("A", "stem", 65536, CANDIDATES["stem"][0])]
    rows = merge_rows(old, results, "A")
    assert len(rows) == len(others) + len(new)
    assert all(row in rows for row in others + new)
    assert merge_rows(rows, results, "A") == rows


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    rows = merge_rows([table_row("B", "trunk", 4096, SLOW)], [result("trunk", 4096, 2e-5, {FAST: 1e-5})], "A")
    tune.write(tmp_path / "table.json", rows)
    read = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert read == rows
    assert from_table("A", read)("trunk", 4096, torch.float16) == FAST
    assert from_table("B", read)("trunk", 4096, torch.float16) == SLOW
    assert from_table("A", read)("trunk", 4096, torch.bfloat16) is None
    tune.write(tmp_path / "table.json", [])
    assert json.loads((tmp_path / "table.json").read_text()) == {"rows": []}


def test_what_is_saved_adds_to_a_table_that_need_not_be_there(tmp_path: Path) -> None:
    table, times = tmp_path / "table.json", tmp_path / "times.json"
    tune.save(table, times, [], "A")
    assert json.loads(table.read_text()) == {"rows": []}
    assert json.loads(times.read_text()) == {"gpu": "A", "results": []}
    first = result("trunk", 4096, 2e-5, {FAST: 1e-5})
    tune.save(table, times, [first], "A")
    failed = replace(result("up", 4096, float("inf"), {CANDIDATES["up"][0]: 1e-5}), failed={None: "lost"})
    tune.save(table, times, [first, failed], "A")
    tune.save(table, None, [result("trunk", 4096, 2e-5, {SLOW: 1e-5})], "B")
    rows = [
        table_row("A", "trunk", 4096, FAST),
        table_row("A", "up", 4096, CANDIDATES["up"][0]),
        table_row("B", "trunk", 4096, SLOW),
    ]
    assert tune.read(table) == rows
    saved = json.loads(times.read_text())["results"]
    assert [(entry["kind"], entry["cudnn_s"]) for entry in saved] == [("trunk", 2e-5), ("up", None)]
    assert saved[1]["failed"] == {"cuDNN": "lost"}


def test_a_table_that_cannot_be_written_is_found_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(tune, "why_no_kernels", lambda device: None)
    monkeypatch.setattr(sys, "argv", ["tune", "--out", str(tmp_path / "missing" / "table.json")])
    with pytest.raises(SystemExit, match="2"):
        tune.main()
    assert "--out" in capsys.readouterr().err


def test_main_measures_what_the_gpu_has_and_saves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tune.Size, torch.dtype]] = []

    def problems(name: str) -> Callable[..., Iterator[Any]]:
        def made(spec: Any, size: tune.Size, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
            asked.append((name, size, dtype))
            yield dtype

        return made

    def measure(dtype: torch.dtype, arch: int) -> Result:
        if len(asked) == 5:
            raise KeyboardInterrupt
        return result("trunk", 4096 * len(asked), 2e-5, {FAST: 1e-5}, dtype)

    for name in ("problems", "gradient_problems"):
        monkeypatch.setattr(tune, name, problems(name))
    monkeypatch.setattr(tune, "measure", measure)
    monkeypatch.setattr(tune, "why_no_kernels", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    table, times = tmp_path / "table.json", tmp_path / "times.json"
    sizes = ["--sizes", "16x24x2", "--gradients", "8x8x1"]
    monkeypatch.setattr(sys, "argv", ["tune", "--out", str(table), "--json", str(times), *sizes])
    with pytest.raises(KeyboardInterrupt):
        tune.main()
    assert asked == [
        ("problems", (2, 16, 24), torch.float16),
        ("gradient_problems", (1, 8, 8), torch.float16),
        ("problems", (2, 16, 24), torch.bfloat16),
        ("gradient_problems", (1, 8, 8), torch.bfloat16),
        ("problems", (2, 16, 24), torch.int8),
    ]
    assert not torch.backends.cudnn.benchmark
    assert [row["pixels"] // 4096 for row in tune.read(table)] == [3, 4, 1, 2]  # bfloat16, float16
    assert len(json.loads(times.read_text())["results"]) == 4


def test_the_kept_table_has_candidates_only() -> None:
    for row in json.loads(tune.TABLE.read_text())["rows"]:
        assert row.keys() == table_row("", "", 0, FAST).keys()
        kind = "trunk8" if row["dtype"] in ("int8", "float8_e4m3fn") else row["kind"]
        assert ConvConfig(**row["config"]) in CANDIDATES[kind]


def test_wins_and_losses_are_printed() -> None:
    won, lost = ({FAST: 1e-5, SLOW: 2e-5}, {SLOW: 4e-5})
    assert tune.line(result("trunk", 4096, 2e-5, won), "A").endswith("| 20.0 | 2.00 |")
    assert tune.line(result("trunk", 4096, 2e-5, lost), "A").endswith("| 20.0 | 0.50 |")
    assert "%" in tune.line(result("trunk", 4096, 2e-5, won), "NVIDIA H200")
    assert "| none |" in tune.line(result("trunk", 4096, 2e-5, {}), "A")


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        (torch.float16, ["stem", "down.0", "down.1", "trunk", "up.0", "up.1", "head"]),
        (torch.int8, ["trunk"]),
        (torch.float8_e4m3fn, ["trunk"]),
    ],
    ids=str,
)
def test_every_layer_is_measured_with_its_candidates(
    dtype: torch.dtype, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "seconds", lambda call: 1.0)
    monkeypatch.setattr(tune, "CANDIDATES", {kind: [configs[0], configs[-1]] for kind, configs in CANDIDATES.items()})
    problems = tune.problems(PRESETS["paper"], (1, 8, 12), dtype, KERNEL_DEVICE)
    results = [(problem, tune.measure(problem, 90)) for problem in problems]
    assert [problem.case.kernel.name for problem, _ in results] == names
    for problem, measured in results:
        assert problem.channels in SHAPES[problem.case.kind]
        assert not measured.failed
        assert measured.library == 1.0
        assert list(measured.ours) == candidates(problem.case.kind, 90, *problem.channels)


@pytest.mark.parametrize("preset", ["paper", "article"])
def test_every_gradient_is_measured_with_its_candidates(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "seconds", lambda call: 1.0)
    monkeypatch.setattr(tune, "CANDIDATES", {kind: [configs[0], configs[-1]] for kind, configs in CANDIDATES.items()})
    results = [
        (problem, tune.measure(problem, 90))
        for problem in tune.gradient_problems(PRESETS[preset], (1, 8, 12), torch.float16, KERNEL_DEVICE)
    ]
    layers = ("down.0", "down.1", "trunk", "up.0", "up.1", "head")
    wanted = {"stem wgrad", *(f"{layer} {which}" for layer in layers for which in ("dgrad", "wgrad"))}
    if preset == "paper":  # both layers of a block
        wanted = wanted - {"trunk dgrad"} | {"trunk dgrad x2"}
    assert {problem.case.kernel.name for problem, _ in results} == wanted
    for problem, measured in results:
        assert problem.channels in SHAPES[problem.case.kind]
        assert not measured.failed
        assert list(measured.ours) == candidates(problem.case.kind, 90, *problem.channels) != []


def test_gradients_are_timed_as_training_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    packed: list[bool] = []

    def record(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            made.append(name)
            if "adjoint" in options:
                packed.append(options["adjoint"] is not None)
            return original(*args, **options)

        monkeypatch.setattr(module, name, call)

    record(tune.conv_grad, "input_gradient")
    record(tune.conv_grad, "activation_gradient")
    record(tune, "norm_act_reduce")
    residual = ["input_gradient"], ["input_gradient"]  # with our kernel, with the library
    activations = ["activation_gradient"], ["input_gradient", "norm_act_reduce"]
    wanted = {
        "down.0 dgrad": activations,
        "down.1 dgrad": activations,
        "trunk dgrad x2": (residual[0] + activations[0], residual[1] + activations[1]),
        "up.0 dgrad": residual,
        "up.1 dgrad": activations,
        "head dgrad": activations,
    }
    for problem in tune.gradient_problems(PRESETS["paper"], (1, 8, 12), torch.float16, KERNEL_DEVICE):
        kind, name = problem.case.kind, problem.case.kernel.name
        for config, parts in zip((CANDIDATES[kind][-1], None), wanted.get(name, ()), strict=False):
            made.clear()
            packed.clear()
            problem.run(config)
            assert made == parts, name
            assert set(packed) == {kind == "trunk.dgrad"}, name


def test_the_trunks_gradients_have_the_work_of_both_layers() -> None:
    kernels = {kernel.name: kernel for kernel in generator_kernels(PRESETS["paper"], 8, 12)}
    problems = tune.gradient_problems(PRESETS["paper"], (1, 8, 12), torch.float16, KERNEL_DEVICE)
    made = {problem.case.kernel.name: problem.case.kernel for problem in problems}
    assert made["trunk dgrad x2"].flops == 2 * kernels["trunk"].flops
    assert made["trunk dgrad x2"].bytes == 2 * kernels["trunk"].bytes
    assert made["up.0 dgrad"].flops == kernels["up.0"].flops


def test_an_error_is_one_candidates_own(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = next(tune.problems(PRESETS["paper"], (1, 8, 8), torch.float16, KERNEL_DEVICE))
    first, second, third = candidates("stem", 90, *problem.channels)
    right = problem.run

    def run(config: ConvConfig | None) -> Any:
        if config == first:
            raise RuntimeError("no such instruction")
        return right(config)

    def seconds(call: Any) -> float:
        if call.args == (second,):
            raise ValueError("cannot be captured")
        return 1.0

    monkeypatch.setattr(tune, "seconds", seconds)
    measured = tune.measure(replace(problem, run=run), 90)
    assert measured.failed == {first: "RuntimeError: no such instruction", second: "ValueError: cannot be captured"}
    assert measured.ours == {third: 1.0}
    assert measured.library == 1.0


def test_an_interrupt_ends_the_run() -> None:
    problem = next(tune.problems(PRESETS["paper"], (1, 8, 8), torch.float16, KERNEL_DEVICE))

    def run(config: ConvConfig | None) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.measure(replace(problem, run=run), 90)


def test_a_case_without_any_time_keeps_its_row() -> None:
    old = [table_row("A", "trunk", 4096, SLOW)]
    nothing = replace(result("trunk", 4096, float("inf"), {}), failed={None: "lost", FAST: "lost", SLOW: "lost"})
    assert merge_rows(old, [nothing], "A") == old
    assert merge_rows(old, [replace(nothing, failed={FAST: "wrong"}, library=1e-5)], "A") == []


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "seconds", lambda call: 1.0)
    problem = next(tune.problems(PRESETS["paper"], (1, 8, 8), torch.float16, KERNEL_DEVICE))
    right = problem.run

    def run(config: ConvConfig | None) -> Any:
        y, stats = right(config)
        return (y, stats) if config is None else (y, stats * 1.01)

    measured = tune.measure(replace(problem, run=run), 90)
    assert measured.library == 1.0
    assert not measured.ours
    assert measured.failed.keys() == set(CANDIDATES["stem"])
    assert "relative error" in measured.failed[CANDIDATES["stem"][0]]


def test_sizes_read_as_pictures_do() -> None:
    assert tune.sizes("720x1280x8,8x12x1") == [(8, 720, 1280), (1, 8, 12)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="would tune")
def test_without_a_gpu_it_says_so() -> None:
    ran = subprocess.run([sys.executable, "-m", "benchmarks.tune"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "no CUDA device" in ran.stderr
