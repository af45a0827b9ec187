"""The benchmarks' floors: against torch's own counts and against the generator's published cost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deblurgan.kernels.config import ConvConfig
from deblurgan.kernels.conv_wgrad import split_count, tiles
from deblurgan.nn import Generator
from deblurgan.spec import PRESETS, GeneratorSpec

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # where pytest finds the benchmarks' own imports, too

from roofline import (  # noqa: E402
    EXPOSED,
    GPUS,
    H200,
    LAUNCH,
    Kernel,
    Rates,
    conv_programs,
    estimate,
    generator_kernels,
    library_conv,
    library_estimate,
    main,
    net_floors,
    notes,
    peer_floors,
    predict,
    predict_net,
    predict_peers,
    programs_per_sm,
    shared_bytes,
    total,
)

PAPER, ARTICLE = PRESETS["paper"], PRESETS["article"]


def macs(kernels: list[Kernel]) -> float:
    return total(kernels, lambda kernel: kernel.macs)


def named(kernels: list[Kernel]) -> dict[str, Kernel]:
    return {kernel.name: kernel for kernel in kernels}


@pytest.mark.parametrize(
    ("preset", "overrides", "shape"),
    [
        ("paper", {}, (1, 256, 256)),
        ("article", {}, (1, 720, 1280)),
        ("tiny", {}, (3, 64, 96)),
        ("tiny", {"width": 10, "blocks": 2, "convs": 1}, (2, 12, 8)),
        ("tiny", {"width": 4, "blocks": 1, "downsamplings": 3}, (1, 16, 24)),
    ],
)
def test_counts_are_those_of_the_torch_modules(preset: str, overrides: dict, shape: tuple[int, int, int]) -> None:
    n, h, w = shape
    with torch.device("meta"):
        net = Generator(preset, **overrides)
        x = torch.empty(n, 3, h, w)
    with FlopCounterMode(display=False) as counter:
        net(x)
    kernels = generator_kernels(net.spec, h, w, n)
    assert 2 * macs(kernels) == counter.get_total_flops()
    by_module = counter.get_flop_counts()
    for stage in net.spec.stages[:-1]:
        kernel = named(kernels)["trunk" if stage.kind == "trunk" else stage.name]
        assert kernel.flops == sum(by_module[f"Generator.{stage.name}"].values()), stage.name
    weights = sum(parameter.numel() for parameter in net.parameters() if parameter.dim() == 4)
    assert total(kernels, lambda kernel: kernel.weight_bytes) == 2 * weights


@pytest.mark.parametrize(
    ("spec", "h", "w", "giga_macs"),
    [(PAPER, 256, 256, 49.55), (PAPER, 720, 1280, 696.8), (ARTICLE, 256, 256, 27.81), (ARTICLE, 720, 1280, 391.1)],
)
def test_published_cost(spec: GeneratorSpec, h: int, w: int, giga_macs: float) -> None:
    assert macs(generator_kernels(spec, h, w)) / 1e9 == pytest.approx(giga_macs, rel=2e-4)


def test_a_batch_shares_the_weights_alone() -> None:
    for one, many in zip(generator_kernels(PAPER, 64, 64), generator_kernels(PAPER, 64, 64, 5), strict=True):
        assert many.count == one.count
        assert many.macs == 5 * one.macs
        assert many.bytes - many.weight_bytes == 5 * (one.bytes - one.weight_bytes)
        assert many.weight_bytes == one.weight_bytes


def test_bytes_of_norm_act() -> None:
    kernels = named(generator_kernels(PAPER, 720, 1280, element=2))
    y, bordered = 2 * 256 * 180 * 320, 2 * 256 * 182 * 322
    assert kernels["norm inner"].bytes == y + bordered
    assert kernels["norm residual"].bytes == 2 * y + bordered
    assert kernels["norm up.1"].bytes == 2 * 64 * (720 * 1280 + 726 * 1286)


def test_eight_bits_change_the_residual_blocks_alone() -> None:
    half, eight_bit = (named(generator_kernels(PAPER, 720, 1280, quantize=flag)) for flag in (False, True))
    changed = {name for name in half if half[name] != eight_bit[name]}
    assert changed == {"trunk", "norm inner", "norm residual"}
    assert eight_bit["trunk"].math_s() == half["trunk"].math_s() / 2
    assert eight_bit["trunk"].read_bytes == half["trunk"].read_bytes / 2
    assert eight_bit["trunk"].written_bytes == half["trunk"].written_bytes
    assert eight_bit["norm inner"].written_bytes == half["norm inner"].written_bytes / 2
    assert eight_bit["norm residual"].written_bytes == half["norm residual"].written_bytes * 3 / 2
    assert eight_bit["trunk"].floor_s() == pytest.approx(43.0e-6, rel=0.01)


def test_a_kernel_takes_the_longer_of_its_two_times() -> None:
    trunk = named(generator_kernels(PAPER, 64, 64))["trunk"]
    assert trunk.floor_s(Rates({2: 1.0}, 1e30)) == trunk.flops
    assert trunk.floor_s(Rates({2: 1e30}, 1.0)) == trunk.bytes


# Milliseconds on an H200: math, roof, pragmatic, separate, torch.compile's passes, eager channels_last's. Computed
# once by an independent program, that leaves out weights and borders.
FLOORS = [
    (ARTICLE, 256, 256, 1, [0.070, 0.071, 0.086, 0.097, 0.112, 0.203]),
    (PAPER, 256, 256, 1, [0.125, 0.127, 0.149, 0.161, 0.181, 0.315]),
    (ARTICLE, 256, 256, 16, [1.126, 1.143, 1.370, 1.557, 1.799, 3.251]),
    (PAPER, 256, 256, 16, [2.007, 2.024, 2.391, 2.578, 2.890, 5.045]),
    (ARTICLE, 720, 1280, 1, [0.990, 1.005, 1.204, 1.368, 1.581, 2.857]),
    (PAPER, 720, 1280, 1, [1.764, 1.779, 2.101, 2.266, 2.540, 4.434]),
    (ARTICLE, 720, 1280, 8, [7.920, 8.039, 9.630, 10.947, 12.648, 22.860]),
    (PAPER, 720, 1280, 8, [14.113, 14.231, 16.810, 18.127, 20.322, 35.472]),
]


@pytest.mark.parametrize(("spec", "h", "w", "n", "wanted"), FLOORS)
def test_floors_of_the_whole_pass(spec: GeneratorSpec, h: int, w: int, n: int, wanted: list[float]) -> None:
    kernels = generator_kernels(spec, h, w, n)
    floors = [*net_floors(kernels).values(), *peer_floors(kernels).values()]
    assert [1e3 * floor for floor in floors] == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("quantize", [False, True])
def test_predictions_stay_above_the_floor(quantize: bool) -> None:
    kernels = generator_kernels(PAPER, 720, 1280, quantize=quantize)
    for kernel in kernels:
        span = predict(kernel)
        assert kernel.floor_s() < span.fast < span.slow
    assert (
        sum(kernel.count * kernel.launches for kernel in kernels) == 24 + 23 + 19 + 2 * 4
    )  # merges in one step or two
    spans = [predict(kernel) for kernel in kernels for _ in range(kernel.count)]
    assert predict_net(kernels).fast == pytest.approx(LAUNCH.fast + sum(span.fast for span in spans))
    assert predict_net(kernels).slow == pytest.approx(LAUNCH.slow + sum(span.slow for span in spans))


def test_a_pass_over_memory_is_a_share_of_a_copy() -> None:
    norm = named(generator_kernels(PAPER, 720, 1280))["norm inner"]
    assert norm.bytes / (predict(norm).slow - 2 * LAUNCH.slow) == pytest.approx(0.85 * H200.bytes)
    small = named(generator_kernels(PAPER, 256, 256))["norm inner"]  # within half of L2
    assert small.bytes / (predict(small).slow - LAUNCH.slow) == pytest.approx(0.85 * H200.l2_bytes)


def test_every_gpu_s_pass_is_predicted_by_its_own_rates() -> None:
    kernels = generator_kernels(PAPER, 256, 256)
    times = {name: predict_net(kernels, gpu) for name, gpu in GPUS.items()}
    assert times["H200"].fast < times["H100 PCIe"].fast < times["A100"].fast < times["RTX 3090"].fast
    for gpu in GPUS.values():
        peers = predict_peers(kernels, gpu)
        assert peers["compile"].fast < peers["eager"].fast


def test_notes_keep_what_the_program_predicts() -> None:
    lines = (ROOT / "benchmarks" / "NOTES.md").read_text().splitlines()
    kept = {line[: line.rindex("|", 0, -1) + 1] for line in lines if line.startswith("|") and line.endswith("|")}
    for row in notes():
        assert row in kept, "run python -m benchmarks.roofline --notes"


POINTER, TMA = ConvConfig(128, 128, 32, 4, 4), ConvConfig(128, 128, 64, 4, 3, "tma")
LAYERS = {"stem": (3, 64), "down": (64, 128), "trunk": (256, 256), "up": (128, 64), "head": (64, 3)}
KINDS = [kind + gradient for kind in LAYERS for gradient in ("", ".dgrad", ".wgrad") if kind + gradient != "stem.dgrad"]


def test_l2_binds_where_its_reads_take_longest() -> None:
    # 450 tiles of pixels by 2 of channels, each 2304 deep; 7 programs on the busiest of 132 SMs
    l2 = 900 * (128 + 128) * 2304 * 2 / 9.7e12
    arithmetic = 7 * 2 * 128 * 128 * 2304 * 132 / 790e12
    assert arithmetic / 0.9 < l2
    span = estimate("trunk", 256, 256, 57600, TMA, H200)
    assert span.fast == pytest.approx(l2 + LAUNCH.fast + EXPOSED["wgmma"].fast)
    assert span.slow == pytest.approx(l2 / 0.85 + LAUNCH.slow + EXPOSED["wgmma"].slow)


def test_the_busiest_sm_decides() -> None:
    gpu = GPUS["A100"]

    def time(tiles: int) -> float:
        return estimate("trunk", 256, 256, 128 * tiles, POINTER, gpu).fast

    each = 2 * 128 * 128 * 2304 * 108 / 270e12 / 0.93
    assert time(108) == pytest.approx(2 * each + LAUNCH.fast + EXPOSED["mma"].fast)
    assert time(109) == pytest.approx(time(162)) == pytest.approx(time(108) + each)


@pytest.mark.parametrize("kind", KINDS)
def test_more_pixels_never_take_less(kind: str) -> None:
    channels = LAYERS[kind.partition(".")[0]]
    for gpu in GPUS.values():
        spans = [
            (estimate(kind, *channels, pixels, POINTER, gpu), library_estimate(kind, *channels, pixels, gpu))
            for pixels in (1024, 4096, 57600, 230400, 921600, 1500000)
        ]
        for one, more in pairwise(spans):
            for before, after in zip(one, more, strict=True):
                assert 0 < before.fast <= before.slow
                assert before.fast <= after.fast and before.slow <= after.slow


def test_programs_do_the_layers_work() -> None:
    kernels = named(generator_kernels(PAPER, 720, 1280))
    for name, (kind, channels, pixels) in {
        "down.0": ("down", (64, 128), 230400),
        "trunk": ("trunk", (256, 256), 57600),
        "up.1": ("up", (128, 64), 921600),
    }.items():
        config = ConvConfig(128, 64, 64)
        for which, wanted in ((kind, kernels[name]), (f"{kind}.dgrad", kernels[name])):
            work = conv_programs(which, *channels, pixels, config)
            assert work.count * work.flops == wanted.flops
        assert conv_programs(kind, *channels, pixels, config).memory == kernels[name].bytes
    stem = conv_programs("stem", 3, 64, 921600, POINTER)
    assert stem.count * stem.flops == 2 * kernels["stem"].flops * (7 * 32) // (7 * 7 * 3)  # half of its columns


def test_the_parts_of_a_weight_gradient_are_the_kernel_s() -> None:
    dy = torch.empty(16, 64, 64, 256, device="meta")
    work = conv_programs("trunk.wgrad", 256, 256, 16 * 64 * 64, POINTER)
    assert work.count == tiles(256, 256, (3, 3), POINTER) * split_count(dy, 256, (3, 3), POINTER)


def test_operands_take_the_shared_memory_of_the_compile_report() -> None:
    gpus = {"sm_80": GPUS["A100"], "sm_90": H200, "sm_100": GPUS["B200"], "sm_120": GPUS["RTX 5090"]}
    rows = json.loads((ROOT / "benchmarks" / "results" / "compile" / "triton.json").read_text())
    seen = 0
    for row in rows:
        if row["dtype"] not in ("float16", "bfloat16") or row["kernel"] not in ("conv_stats", "flat_conv_stats"):
            continue
        form, shape, warps, stages = row["config"].split()
        sizes = [int(side) for side in shape.split("x")]
        config = ConvConfig(*sizes, int(warps[1:]), int(stages[1:]), form)
        assert 0 <= row["shared_bytes"] - shared_bytes(config, gpus[row["arch"]]) <= 64, row
        seen += 1
    assert seen > 100


def test_programs_that_share_an_sm() -> None:
    assert programs_per_sm(POINTER, GPUS["RTX 4090"]) == 2  # 48 KB of 100 each
    assert programs_per_sm(ConvConfig(128, 128, 64, 4, 3), GPUS["RTX 4090"]) == 1  # 64 KB
    assert programs_per_sm(TMA, H200) == 2  # 96 KB of 228
    assert programs_per_sm(ConvConfig(128, 256, 64, 8, 3, "tma"), H200) == 1


def test_sums_in_fp16_pay_where_those_in_fp32_halve_the_rate() -> None:
    def gain(gpu: str) -> float:
        case, narrow = ("trunk", 256, 256, 57600), replace(POINTER, accumulate="fp16")
        return estimate(*case, POINTER, GPUS[gpu]).fast / estimate(*case, narrow, GPUS[gpu]).fast

    assert gain("A100") < 1 and gain("L40S") < 1
    assert 1.5 < gain("RTX 3090") < 2


def test_the_library_reads_its_output_once_more() -> None:
    y = 2 * 57600 * 256
    for gpu in GPUS.values():
        case = ("trunk", 256, 256, 57600, gpu)
        passed = y / 0.92 / (gpu.l2_bytes if y <= gpu.l2_size / 2 else gpu.bytes) + LAUNCH.fast
        assert library_estimate(*case).fast == pytest.approx(library_conv(*case).fast + passed)


def test_the_command_compares_every_convolution_with_cudnn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["roofline", "--gpu", "RTX 4090"])
    main()
    rows = [row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 2 * 3 * (7 + 1)
    (trunk,) = [row for row in rows if row[:3] == ["paper", "4000x6000", "trunk"]]
    config = ConvConfig(128, 128, 32, 4, 4, accumulate="fp16")
    assert trunk[3] == "pointer 128x128x32/4/4"
    ours = estimate("trunk", 256, 256, 1500000, config, GPUS["RTX 4090"])
    library = library_estimate("trunk", 256, 256, 1500000, GPUS["RTX 4090"])
    assert trunk[4].split(" ... ") == [f"{1e6 * ours.fast:.1f}", f"{1e6 * ours.slow:.1f}"]
    assert float(trunk[6]) == pytest.approx(sum(library) / sum(ours), abs=0.005)


def test_other_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        generator_kernels(PAPER, 722, 1280)


def test_the_command_prints_and_writes_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.roofline", "--preset", "tiny", "--height", "64", "--width", "96"]
    command += ["--batch", "3", "--json", str(tmp_path / "floors.json")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads((tmp_path / "floors.json").read_text())
    assert report["picture"] == [3, 64, 96]
    kernels = generator_kernels(PRESETS["tiny"], 64, 96, 3)
    assert report["half"]["floors_s"] == net_floors(kernels)
    assert ran.stdout.count("\n| norm ") == 7
    assert f"| {1e3 * peer_floors(kernels)['eager']:.3f} |" in ran.stdout
