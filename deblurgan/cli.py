"""The `deblurgan` command. Exit codes: 0 ok, 1 files or training failed, 2 usage, 130 interrupted.

Each command's options are the fields of a dataclass in `deblurgan.config`; `--config FILE` reads them from YAML.
Torch is imported when a command runs, so that help answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from deblurgan import config
from deblurgan.config import BlurConfig, DeblurConfig, DemoConfig, EvaluateConfig, InfoConfig, TrainConfig

# What stands for a required option until the command line gives it
UNSET: dict[str, Any] = {"data": Path(), "out": Path(), "inputs": ()}

# Kernels on the contact sheet of blur --show-psf
SHOWN = 64


@dataclass(frozen=True)
class Command:
    """A config class and what to do with one; returns the exit code."""

    options: type[Any]
    run: Callable[[Any], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(_overview(), file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from deblurgan import __version__

        print(f"deblurgan {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}: deblurgan has {', '.join(COMMANDS)}")
    try:
        options = _parse(name, COMMANDS[name], rest)
    except SystemExit as stop:  # tyro has said why
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, OSError) as error:
        return _fail(str(error))
    try:
        return COMMANDS[name].run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _fail(str(error))
    except (MemoryError, RuntimeError, ArithmeticError) as error:  # the words were right, the work failed
        _fail(str(error))
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(name: str, command: Command, words: list[str]) -> Any:
    """The command's config from --config FILE, the preset's defaults and the options, the later winning."""
    import tyro

    first = argparse.ArgumentParser(prog=f"deblurgan {name}", add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    if command.options is TrainConfig:
        first.add_argument("--preset")
    early, rest = first.parse_known_args(words)
    values = _read_yaml(early.config) if early.config else {}
    if command.options is TrainConfig:
        preset = early.preset or values.get("preset", "paper")
        if preset not in list(config.TRAIN_PRESETS):  # YAML may hold what cannot be hashed
            raise ValueError(f"preset must be one of {', '.join(config.TRAIN_PRESETS)}, got {preset!r}")
        values = {**config.TRAIN_PRESETS[preset], **values, "preset": preset}
    required = [f for f in fields(command.options) if f.default is MISSING and f.name not in values]
    default = config.from_mapping(command.options, {**{f.name: UNSET[f.name] for f in required}, **values})
    for f in required:
        object.__setattr__(default, f.name, tyro.MISSING)
    return tyro.cli(
        command.options,
        prog=f"deblurgan {name}",
        description=f"{command.options.__doc__}\n\n--config FILE reads these options from YAML.",
        args=rest,
        default=default,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path}: must hold options, name: value")
    return values


def _overview() -> str:
    lines = ["usage: deblurgan COMMAND ...", "", "Blind motion deblurring with DeblurGAN.", ""]
    lines += [f"  {name:10}{command.options.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "deblurgan COMMAND --help lists a command's options."])


def _fail(message: str) -> int:
    print(f"deblurgan: {message}", file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, flush=True)


def _train(options: TrainConfig) -> int:
    from deblurgan.training import train

    result = train(options, log=_say)
    weights = result.out / "best.safetensors"
    _say(f"{result.steps} steps, best validation PSNR {result.best_psnr:.2f} dB, weights {weights}")
    return 0


def _deblur(options: DeblurConfig) -> int:
    from deblurgan.inference import Deblurrer

    deblurrer = Deblurrer.from_pretrained(
        options.weights,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        stochastic=options.stochastic,
        seed=options.seed,
        compile=options.compile,
    )
    report = deblurrer.files(
        options.inputs,
        options.out,
        overwrite=options.overwrite,
        skip_existing=options.skip_existing,
        suffix=options.suffix,
        format=options.format,
        quality=options.quality,
        log=_say,
    )
    return _summary(report)


def _blur(options: BlurConfig) -> int:
    """Writes blurred versions, or with --pairs a training set of PNGs: blur/, sharp/ and psf.npz.

    --show-psf adds psf.png.
    """
    import numpy as np
    import torch

    from deblurgan import images
    from deblurgan.blur import MotionBlur
    from deblurgan.inference import plan_outputs, run_plan

    if options.n < 1:
        raise ValueError(f"n must be at least 1, got {options.n}")
    blur = MotionBlur(
        length=options.length,
        exposure=options.exposure,
        anxiety=options.anxiety,
        padding=options.padding,
        gamma=options.gamma,
        noise=options.noise,
    )
    if options.pairs and options.out.suffix.lower() in images.SUFFIXES:
        raise ValueError(f"out must be a folder with --pairs, got {options.out}")
    sources = plan_outputs(options.inputs, options.out, format="png" if options.pairs else "keep")
    root = options.out.parent if sources[0][1] == options.out else options.out
    folder = root / "blur" if options.pairs else root
    plan = []
    for source, target in sources:
        if options.pairs:
            target = folder / target.relative_to(root)
        names = [target.with_stem(f"{target.stem}_{k:03d}") for k in range(options.n)] if options.n > 1 else [target]
        plan += [(source, name) for name in names]
    if options.pairs and (root / "psf.npz").exists() and not options.overwrite:
        raise FileExistsError(f"{root / 'psf.npz'} exists: replace the training set with --overwrite")
    numbers = {target: i for i, (_, target) in enumerate(plan)}
    sheet = root / "psf.png"
    if options.show_psf and sheet in numbers:
        raise FileExistsError(f"{sheet} is the output of {plan[numbers[sheet]][0]} already")
    if options.show_psf and sheet.exists() and not options.overwrite:
        raise FileExistsError(f"{sheet} exists: replace it with --overwrite")
    kernels: dict[str, np.ndarray[Any, Any]] = {}

    def work(source: Path, target: Path) -> None:
        outputs = [target, root / "sharp" / target.relative_to(folder)] if options.pairs else [target]
        for path in outputs:
            if path.exists() and not options.overwrite:
                raise FileExistsError(f"{path} exists: replace it with --overwrite")
        picture = images.read(source)
        pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)
        pixels, psf = blur(pixels, seed=options.seed, index=numbers[target], return_psf=True)
        blurred = picture.with_pixels(pixels.permute(1, 2, 0).numpy())
        for path, result in zip(outputs, (blurred, picture), strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            images.write(result, path, quality=options.quality)
        if options.pairs or (options.show_psf and len(kernels) < SHOWN):
            kernels[target.relative_to(folder).as_posix()] = psf[0].numpy()

    report = run_plan(plan, work, log=_say)
    if kernels and options.pairs:
        images.replace_file(root / "psf.npz", _npz(kernels))
    if kernels and options.show_psf:
        shown = np.stack(list(kernels.values())[:SHOWN])
        grey = images.contact_sheet(shown)[..., None]
        images.write(images.Picture(grey.repeat(3, 2), grey=True), sheet)
        share = f"{len(shown)}" if len(report.done) <= SHOWN else f"the first {SHOWN} of {len(report.done)}"
        _say(f"{sheet}: {share} kernels")
    return _summary(report)


def _npz(arrays: dict[str, Any]) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(list(arrays)), psf=np.stack(list(arrays.values())))
    return buffer.getvalue()


def _summary(report: Any) -> int:
    _say(f"{len(report.done)} written, {len(report.skipped)} left out, {len(report.failed)} failed")
    for source, reason in report.failed:
        print(f"deblurgan: {source}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _evaluate(options: EvaluateConfig) -> int:
    from deblurgan.evaluation import evaluate
    from deblurgan.inference import Deblurrer

    deblurrer = Deblurrer.from_pretrained(options.weights, device=options.device, dtype=options.dtype)
    report = evaluate(
        deblurrer,
        options.data,
        options.metrics,
        layout=options.layout,
        gamma=options.gamma,
        kernels=options.kernels,
        exposure=options.exposure,
        seed=options.seed,
        log=_say,
    )
    _say(str(report))
    if options.csv is not None:
        report.to_csv(options.csv)
    return 1 if report.failed else 0


def _demo(options: DemoConfig) -> int:
    import torch

    from deblurgan import images, metrics
    from deblurgan.blur import MotionBlur
    from deblurgan.inference import Deblurrer

    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} exists: replace it with --overwrite")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture = images.read(Path(__file__).parent / "assets" / "demo.png")
    sharp = torch.from_numpy(picture.pixels).permute(2, 0, 1)
    blurred = MotionBlur(exposure=1.0)(sharp, seed=options.seed, index=0)
    restored = Deblurrer.from_pretrained(options.weights)(blurred)
    grid = torch.cat([blurred, restored, sharp], 2).permute(1, 2, 0).numpy()
    images.write(images.Picture(grid), options.out)
    for name, shown in (("blurred", blurred), ("restored", restored)):
        psnr, ssim = (float(metric(shown, sharp, 255.0)) for metric in (metrics.psnr, metrics.ssim))
        _say(f"{name:9} PSNR {psnr:.2f} dB  SSIM {ssim:.4f}")
    _say(f"{options.out}: blurred | restored | sharp")
    return 0


def _info(options: InfoConfig) -> int:
    from deblurgan.diagnosis import info

    _say(info())
    return 0


COMMANDS = {
    "train": Command(TrainConfig, _train),
    "deblur": Command(DeblurConfig, _deblur),
    "blur": Command(BlurConfig, _blur),
    "evaluate": Command(EvaluateConfig, _evaluate),
    "demo": Command(DemoConfig, _demo),
    "info": Command(InfoConfig, _info),
}
