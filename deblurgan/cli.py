"""The `deblurgan` command. Exit codes: 0 ok, 1 files or training failed, 2 usage, 3 a training diverged, 4 its run
folder cannot be written, 130 interrupted, 143 and 129 ended by SIGTERM or SIGHUP: a training that is saved, or pictures
that --skip-existing goes on with.

Each command's options are the fields of a dataclass in `deblurgan.config`; `--config FILE` reads them from YAML.
Torch is imported when a command runs, so that help answers at once.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any, TextIO

from deblurgan import config, signals
from deblurgan.config import (
    BlurConfig,
    DeblurConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    InfoConfig,
    TrainConfig,
    TuneConfig,
    WebConfig,
)
from deblurgan.config.data import DataConfig

if TYPE_CHECKING:
    from deblurgan.display import Display
    from deblurgan.images import FilesReport
    from deblurgan.inference import Deblurrer

STREAM = Path("-")  # standard input or output


@dataclass(frozen=True)
class Command:
    """A config class and what to do with one; returns the exit code."""

    options: type[Any]
    run: Callable[[Any], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # no file's name may stop the work
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        _say(_overview(), sys.stderr)
        return 2
    if words[0] in ("-h", "--help"):
        _say(_overview())
        return 0
    if words[0] == "--version":
        from deblurgan import __version__

        _say(f"deblurgan {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"deblurgan has {', '.join(COMMANDS)}"
        return _fail(f"unknown command {name!r}: {hint}")
    return _run(name, COMMANDS[name], rest)


def _run(name: str, command: Command, words: list[str]) -> int:
    """Parses a command's words and runs it; errors become a message and an exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"deblurgan: {message}", sys.stderr)
            return command.run(config.parse_words(f"deblurgan {name}", command.options, words))
    except SystemExit as stop:  # tyro has said why
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:  # of a help that nobody reads to its end
        _silence(sys.stdout)
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _fail(_as_typed(str(error), command.options))
    except (MemoryError, RuntimeError, ArithmeticError) as error:  # the options were right, the work failed
        _fail(_as_typed(str(error), command.options))
        return 1
    except KeyboardInterrupt:
        _say("interrupted", sys.stderr)
        return 130


def _as_typed(message: str, options: Any) -> str:
    """The message with a command's switches as they are typed: the library says overwrite=True for --overwrite, and
    resume=False for --no-resume.

    `options` is the command's config or its class.
    """
    for option in fields(options):
        dashed = option.name.replace("_", "-")
        message = message.replace(f"{option.name}=True", f"--{dashed}").replace(
            f"{option.name}=False", f"--no-{dashed}"
        )
    return message


def _overview() -> str:
    lines = ["usage: deblurgan COMMAND ...", "", "Blind motion deblurring with DeblurGAN.", ""]
    lines += [f"  {name:10}{command.options.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "deblurgan COMMAND --help lists a command's options."])


def _fail(message: str) -> int:
    _say(f"deblurgan: {message}", sys.stderr)
    return 2


def _say(line: str, stream: TextIO | None = None) -> None:
    """Prints a line to standard output or the stream given. One that fails stops no work, which goes on unheard."""
    stream = stream or sys.stdout
    try:
        print(line, file=stream, flush=True)
    except OSError as error:  # the reader of a pipe, the terminal, or the disk's space is gone
        _silence(stream)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            _fail(f"standard output takes no more lines: {error}")


def _open_missing_streams() -> None:
    """Has /dev/null stand in for closed streams, whose numbers the next files would take, and messages with them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _silence(stream: TextIO) -> None:
    """Drops what the stream holds and what comes after it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _log(options: Any) -> Callable[[str], None]:
    """Prints the library's lines, with the command's switches as they are typed."""
    return lambda line: _say(_as_typed(line, options))


def _warn(options: Any) -> Callable[[str], None]:
    """As `_log`, to standard error."""
    return lambda line: _say(f"deblurgan: {_as_typed(line, options)}", sys.stderr)


def _train(options: TrainConfig) -> int:
    with signals.ending_signals():
        from deblurgan.display import Display, can_draw
        from deblurgan.distributed import leads
        from deblurgan.training import DivergedError, ProgressBar, SaveError, train

        with Display(sys.stderr) if leads() and can_draw(sys.stderr) else nullcontext() as display:
            bar = [] if display is None else [ProgressBar(display)]
            try:
                result = train(options, log=lambda line: _above(display, partial(_say, line)), callbacks=bar)
            except (DivergedError, SaveError) as error:
                _fail(str(error))
                return 3 if isinstance(error, DivergedError) else 4
    if not leads():
        return 0
    weights = result.out / "best.safetensors"
    _say(f"{result.steps} steps, best validation PSNR {result.best_psnr:.2f} dB, weights {weights}")
    return 0


def _deblur(options: DeblurConfig) -> int:
    if not options.inputs and options.files_from is None:
        return _fail("name a picture, a folder or - for standard input: deblurgan deblur photo.jpg")
    try:
        with signals.interrupting_signals():
            if STREAM in options.inputs or options.out == STREAM:
                return _deblur_stream(options)
            return _deblur_files(options)
    except KeyboardInterrupt as interruption:
        _say("interrupted: what is written is whole, and --skip-existing goes on from there", sys.stderr)
        return 128 + (interruption.number if isinstance(interruption, signals.Interrupted) else SIGINT)


def _deblur_files(options: DeblurConfig) -> int:
    from deblurgan import images

    for path in options.inputs:  # what is mistyped is said at once, before torch is loaded
        images.require_input(path)
    from deblurgan import distributed

    with distributed.joined("--skip-existing goes on from here") as together:
        listed = together.first(lambda: _listed(options.files_from))
        deblurrer = _deblurrer(options, distributed.local_device(options.device))
        if together.rank == 0:
            _say_weights(deblurrer, options.weights)
        if options.dry_run:
            return _preview(deblurrer, options, listed) if together.rank == 0 else 0
        with _display(together.count) as display:
            report = deblurrer.files(
                options.inputs,
                options.out,
                listed=listed,
                overwrite=options.overwrite,
                skip_existing=options.skip_existing,
                suffix=options.suffix,
                format=options.format,
                quality=options.quality,
                compare=options.compare,
                strip_metadata=options.strip_metadata,
                log=lambda line: _above(display, partial(_log(options), line)),
                warn=lambda line: _above(display, partial(_warn(options), line)),
                progress=display,
                processes=together,
            )
        if together.rank == 0:
            _summary(report)
        together.wait()
    return 1 if report.failed else 0


def _deblurrer(options: DeblurConfig, device: str) -> Deblurrer:
    from deblurgan.inference import Deblurrer

    return Deblurrer.from_pretrained(
        options.weights,
        device=device,
        dtype=options.dtype,
        max_memory=config.parsed_bytes("max_memory", options.max_memory),
        scale=options.scale,
        quantize=options.quantize,
        stochastic=options.stochastic,
        seed=options.seed,
        compile=options.compile,
    )


def _say_weights(deblurrer: Deblurrer, given: Path | None) -> None:
    """What was found where more than a file's own name was given."""
    from deblurgan.images import printable

    if given is not None and not given.is_file():
        _say(printable(f"weights: {deblurrer.source}"))


def _listed(files_from: Path | None) -> list[Path]:
    from deblurgan.inference import pipes

    if files_from is None:
        return []
    if files_from == STREAM:
        return pipes.read_list(sys.stdin.buffer)
    with open(files_from, "rb") as file:
        return pipes.read_list(file)


def _preview(deblurrer: Deblurrer, options: DeblurConfig, listed: list[Path]) -> int:
    from deblurgan.inference import folders

    plan = folders.plan_files(options.inputs, options.out, listed=listed, suffix=options.suffix, format=options.format)
    how = folders.Options(
        options.overwrite, options.skip_existing, compare=options.compare, strip_metadata=options.strip_metadata
    )
    code = 0
    for succeeds, line in folders.preview(plan, how, deblurrer.plan):
        (_log if succeeds else _warn)(options)(line)
        code = code if succeeds else 1
    return code


def _deblur_stream(options: DeblurConfig) -> int:
    """From standard input or to standard output, or both; messages go to standard error."""
    from deblurgan import images
    from deblurgan.images.batch import written_suffix
    from deblurgan.inference import pipes

    if len(options.inputs) != 1 or options.files_from is not None or options.dry_run or options.compare:
        return _fail("- takes one picture, without --files-from, --dry-run and --compare")
    to_stream = options.out in (None, STREAM)
    if to_stream and sys.stdout.isatty():
        return _fail("standard output is a terminal: give -o FILE, or send it to one by >")
    given = options.inputs[0]
    with ExitStack() as stack:
        # What is left in the stream would fail again at the interpreter's end.
        stack.push(lambda kind, *_: _silence(sys.stdout) if kind is pipes.Unsent else None)
        source = stack.enter_context(pipes.stored(sys.stdin.buffer)) if given == STREAM else given
        suffix = written_suffix(source, options.format)
        target = stack.enter_context(pipes.sent(sys.stdout.buffer, suffix)) if to_stream else options.out
        deblurrer = _deblurrer(options, options.device)
        with _display(1) as display:
            report = deblurrer.files(
                [source],
                target,
                overwrite=options.overwrite,
                quality=options.quality,
                strip_metadata=options.strip_metadata,
                progress=display,
            )
        for _, reason in report.failed:
            _warn(options)(images.printable(f"{'standard input' if given == STREAM else given}: {reason}"))
        for change in report.changes.values():
            _say(f"deblurgan: {change}", sys.stderr)
    return 1 if report.failed else 0


def _display(processes: int) -> AbstractContextManager[Display | None]:
    """What shows how far the work is; nothing where several processes would draw over one another."""
    from deblurgan.display import Display

    return Display(sys.stderr) if processes == 1 else nullcontext()


def _above(display: Display | None, say: Callable[[], None]) -> None:
    if display is None:
        say()
    else:
        display.above(say)


def _blur(options: BlurConfig) -> int:
    from deblurgan.data.blurred_sets import write_blurred

    report = write_blurred(options, log=_log(options), warn=_warn(options))
    _summary(report)
    return 1 if report.failed else 0


def _data(options: DataConfig) -> int:
    from deblurgan import images
    from deblurgan.data.check import check_data

    if options.json is not None:  # what is in its way shows before the work
        images.require_absent(options.json, overwrite=True)
        options.json.parent.mkdir(parents=True, exist_ok=True)
    with _display(1) as display:
        report = check_data(options, log=lambda line: _above(display, partial(_log(options), line)), progress=display)
    for line in report.lines():
        _say(line)
    _say(_epoch(options, report.usable()))
    if options.json is not None:
        images.replace_file(options.json, json.dumps(report.to_mapping(), indent=1).encode())
    return 1 if report.problems() else 0


def _epoch(options: DataConfig, pictures: int) -> str:
    """How long an epoch is, in steps and, where it is to be measured, in time."""
    names = ("layout", "gamma", "crop", "preset", "batch_size", "device")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    training = config.train_config(options.data, **given)
    steps = -(-pictures // training.batch_size)
    text = f"an epoch: {steps} steps of {training.batch_size}"
    if not options.time or not steps:
        return f"{text}; --time measures how long these take"
    from deblurgan.display import duration
    from deblurgan.training.estimate import measure_step

    step = measure_step(training)
    one, all_of_them = (duration(n * steps * step.seconds) for n in (1, training.epochs))
    how = f"{step.seconds:.3g} s a step on {step.where}"
    return f"{text}, about {one} ({how}); the {training.epochs} of {options.preset} about {all_of_them}"


def _summary(report: FilesReport) -> None:
    """Says how many pictures were written, and where; what became of each was said when it came."""
    from deblurgan.images import kinds, printable

    left_out = len(report.skipped) + len(report.left_out)
    if len(report.done) + left_out + len(report.failed) > 1:
        counts = f"{len(report.done)} written, {left_out} left out, {len(report.failed)} failed"
        _say(printable(counts + _where(report.done)))
    if report.others:
        _say(printable(f"left out as no pictures: {kinds(report.others)}"))


def _where(written: list[Path]) -> str:
    """Names the folder that holds all."""
    if not written:
        return ""
    folders = {path.parent for path in written}
    if len(folders) == 1:
        return f", in {folders.pop()}"
    try:
        return f", in {os.path.commonpath(folders)}" if os.path.commonpath(folders) else ""
    except ValueError:  # some are absolute, or on other drives
        return f", in {len(folders)} folders"


def _evaluate(options: EvaluateConfig) -> int:
    goes_on = options.out is not None
    try:
        with signals.interrupting_signals():
            return _evaluate_pictures(options, "the same command goes on from here" if goes_on else "")
    except KeyboardInterrupt as interruption:
        kept = ": what is measured is kept, and the same command goes on from there" if goes_on else ""
        _say(f"interrupted{kept}", sys.stderr)
        return 128 + (interruption.number if isinstance(interruption, signals.Interrupted) else SIGINT)


def _evaluate_pictures(options: EvaluateConfig, remedy: str) -> int:
    from deblurgan import distributed, images
    from deblurgan.evaluation import evaluate
    from deblurgan.inference import Deblurrer

    if options.csv is not None:  # what is in its way shows before the work
        images.require_absent(options.csv, overwrite=True)
        options.csv.parent.mkdir(parents=True, exist_ok=True)
    device = distributed.local_device(options.device)
    with distributed.joined(remedy) as together:
        deblurrer = Deblurrer.from_pretrained(options.weights, device=device, dtype=options.dtype, scale=1.0)
        if together.leads:
            _say_weights(deblurrer, options.weights)
        with _display(together.count) as display:
            report = evaluate(
                deblurrer,
                options.data,
                options.metrics,
                protocol=options.protocol,
                layout=options.layout,
                gamma=options.gamma,
                scale=options.scale,
                kernels=options.kernels,
                exposure=options.exposure,
                seed=options.seed,
                frames=options.frames,
                baselines=options.baselines,
                compare=_folders(options.compare),
                detector=options.detector,
                detector_weights=options.detector_weights,
                confidence=options.confidence,
                iou=options.iou,
                out=options.out,
                overwrite=options.overwrite,
                save_pictures=options.save_pictures,
                warn=lambda line: _above(display, partial(_warn(options), line)),
                progress=display,
                processes=together,
            )
        if together.leads:
            _say(str(report))
            if options.csv is not None:
                report.to_csv(options.csv)
            if options.out is not None:
                _say(f"\n{options.out} holds report.html to look at, report.json and figures.csv")
        together.wait()
    return 1 if report.failed else 0


def _folders(compare: Sequence[str]) -> dict[str, Path]:
    """The folders of NAME=FOLDER. Raises ValueError for other words, and for a name that is given twice."""
    folders: dict[str, Path] = {}
    for word in compare:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder) or name in folders:
            raise ValueError(f"compare must be NAME=FOLDER, each name once, got {word!r}")
        folders[name] = config.as_path("compare", folder)
    return folders


def _demo(options: DemoConfig) -> int:
    from deblurgan.evaluation.demo import run_demo

    run_demo(options, log=_say)
    return 0


def _export(options: ExportConfig) -> int:
    from deblurgan import images
    from deblurgan.export import export_generator
    from deblurgan.nn import Generator

    images.require_absent(options.out, overwrite=options.overwrite)
    generator = Generator.from_pretrained(options.weights)
    difference = export_generator(generator, options.out, unit_range=options.unit_range)
    _say(f"{options.out} written from {generator.source}: within {difference:.1g} of the network at two sizes")
    return 0


def _info(options: InfoConfig) -> int:
    from deblurgan.diagnosis import info

    _say(info())
    return 0


def _tune(options: TuneConfig) -> int:
    from deblurgan.tuning import tune

    tune(options, log=_log(options))
    return 0


def _web(options: WebConfig) -> int:
    from deblurgan.web import serve

    serve(options, log=_say)
    os._exit(0)  # at once: a photo in work would hold up the interpreter's exit, or crash in it


COMMANDS = {
    "train": Command(TrainConfig, _train),
    "deblur": Command(DeblurConfig, _deblur),
    "blur": Command(BlurConfig, _blur),
    "evaluate": Command(EvaluateConfig, _evaluate),
    "demo": Command(DemoConfig, _demo),
    "export": Command(ExportConfig, _export),
    "info": Command(InfoConfig, _info),
    "tune": Command(TuneConfig, _tune),
    "web": Command(WebConfig, _web),
    "data": Command(DataConfig, _data),
}
