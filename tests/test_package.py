"""The house: which way imports run, what is public, and that everything public says what it does."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deblurgan

ROOT = Path(__file__).parent.parent
# Each floor imports only from those before it. `deblurgan` itself is the door to all of them.
FLOORS = [
    {"_C", "arguments", "kernels", "config", "spec", "device", "display", "distributed"}
    | {"limits", "memory", "reference", "signals"},
    {"ops", "metrics", "images"},
    {"generator", "blur", "pages"},
    {"nn"},
    {"losses", "data", "checkpoint"},
    {"training", "inference", "diagnosis", "tuning", "export", "integrations", "detection"},
    {"evaluation", "web"},
    {"cli"},
]
# Methods that stand for functions of a higher floor, which they import when they are called
DEFERRED = {"nn": {"checkpoint"}}
PUBLIC = [
    "Generator",
    "Critic",
    "MotionBlur",
    "PerceptualFeatures",
    "train",
    "TrainConfig",
    "Trainer",
    "TrainResult",
    "Deblurrer",
    "load_generator",
    "save_generator",
    "save_released",
    "evaluate",
    "Report",
    "info",
    "tune",
    "TuneConfig",
    "ImageError",
    "blur.random_trajectories",
    "blur.rasterize_psf",
    "blur.apply_psf",
    "losses.gradient_penalty",
    "losses.critic_loss",
    "losses.generator_loss",
    "losses.content",
    "losses.pixel",
    "losses.total_variation",
    "metrics.psnr",
    "metrics.ssim",
    "nn.Generator",
    "nn.Critic",
    "ops.apply_psf",
    "data.open_dataset",
    "data.SharpFolder",
    "data.PairedFolder",
    "data.GoPro",
    "data.SideBySide",
    "data.Mixed",
    "export.export_generator",
    "inference.FilesReport",
    "inference.StreamPlan",
    "inference.VideoError",
    "inference.VideoReport",
    "images.read",
    "images.write",
    "images.compare.change",
    "images.compare.compare_sheet",
    "reference.conv_norm_relu",
    "reference.instance_norm",
    "reference.output_tail",
]


def floor_of(room: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


def room_of(path: Path) -> str:
    """The package or single module of deblurgan that a file belongs to."""
    return path.relative_to(ROOT / "deblurgan").parts[0].removesuffix(".py")


def imported_rooms(path: Path, *, types: bool = False) -> set[str]:
    """The rooms that a file imports from, anywhere in it; with `types` those under TYPE_CHECKING too."""
    tree = ast.parse(path.read_text())
    skipped = set() if types else types_only(tree)
    rooms = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "deblurgan":
            names = [alias.name for alias in node.names]
            rooms |= {node.module.split(".")[1]} if "." in node.module else set(names)
        if isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("deblurgan.")}
    return rooms - {"__version__"}


def types_only(tree: ast.Module) -> set[ast.AST]:
    """What stands under TYPE_CHECKING."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


FILES = sorted((ROOT / "deblurgan").glob("**/*.py"))


def test_floors_are_few() -> None:
    assert len(FLOORS) <= 8


def test_the_page_on_design_lists_the_floors() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    told = {int(number): set(re.findall(r"`(\w+)`", rooms)) for number, rooms in rows}
    assert told == dict(enumerate(FLOORS, 1))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "deblurgan").as_posix())
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):  # the doors
        assert imported_rooms(path) <= {"cli"}
        return
    for other in imported_rooms(path) - {room} - DEFERRED.get(room, set()):
        assert floor_of(other) < floor_of(room), f"{room} imports {other}, which stands no floor below it"
    for other in imported_rooms(path, types=True) - {room} - DEFERRED.get(room, set()):
        assert floor_of(other) <= floor_of(room), f"{room} takes types of {other}, which stands above it"


def test_packages_import_themselves_in_no_circle() -> None:
    """Within a package, too, imports run one way."""
    for package in {path.parent for path in FILES if path.parent != ROOT / "deblurgan"}:
        needs = {path.stem: siblings(path) for path in package.glob("*.py")}
        while free := {name for name, others in needs.items() if not others & set(needs)}:
            needs = {name: others for name, others in needs.items() if name not in free}
        assert not needs, f"{package.name} has a circle of {sorted(needs)}"


def siblings(path: Path) -> set[str]:
    """The modules of its own package that a file imports when it runs."""
    here = f"deblurgan.{path.parent.name}"
    found, tree = set(), ast.parse(path.read_text())
    for node in set(ast.walk(tree)) - types_only(tree):
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith(f"{here}."):
            below = node.module.removeprefix(here).lstrip(".")
            found |= {below} if below else {alias.name for alias in node.names}
    return found


def public(name: str) -> object:
    thing: object = deblurgan
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings_and_types(name: str) -> None:
    thing = public(name)
    assert inspect.getdoc(thing)
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name})"
        assert signature.return_annotation is not inspect.Signature.empty
    if inspect.isclass(thing):
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            if not method.startswith("_") and function.__module__.startswith("deblurgan"):
                assert inspect.getdoc(function), f"{name}.{method} has no docstring"


def test_everything_listed_is_there() -> None:
    for name in deblurgan.__all__:
        assert getattr(deblurgan, name) is getattr(deblurgan, name)
        assert name in dir(deblurgan)
    with pytest.raises(AttributeError, match="has no attribute 'Deblurer'"):
        deblurgan.Deblurer  # noqa: B018


@pytest.mark.parametrize("order", ["import torch, deblurgan", "import deblurgan, torch"])
def test_both_import_orders_in_a_fresh_process(order: str) -> None:
    names = ", ".join(f"deblurgan.{name}" for name in PUBLIC)
    program = f"{order}\nfirst = [{names}]\nsecond = [{names}]\nassert all(a is b for a, b in zip(first, second))"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_operators_have_signatures_and_docstrings_of_their_own() -> None:
    for name in deblurgan.ops.__all__:
        operator = getattr(deblurgan.ops, name)
        assert inspect.isfunction(operator), name
        assert operator.__module__.startswith("deblurgan."), name
        assert inspect.getdoc(operator), name
        assert not {"args", "kwargs"} & set(inspect.signature(operator).parameters), name


def test_bare_import_loads_no_torch() -> None:
    program = "import sys, deblurgan; assert 'torch' not in sys.modules and 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_networks_load_nothing_that_stands_above_them() -> None:
    program = "import sys, deblurgan.nn; assert not {'deblurgan.checkpoint', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_photo_is_restored_without_torchs_compiler() -> None:
    """Its import takes longer than that of the rest of torch."""
    program = (
        "import sys, numpy, deblurgan\n"
        "deblurgan.Deblurrer.from_pretrained(device='cpu')(numpy.zeros((16, 16, 3), numpy.uint8))\n"
        "found = {'torch._dynamo', 'torch._inductor', 'sympy', 'triton', 'onnx'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_import_needs_no_triton_and_registers_the_operators() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import deblurgan, torch\n"
        "deblurgan.ops; assert 'deblurgan.apply_psf' in str(torch.ops.deblurgan.apply_psf)\n"
        "deblurgan.Generator, deblurgan.train, deblurgan.Deblurrer, deblurgan.evaluate, deblurgan.info()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_module_bears_the_name_of_a_public_function() -> None:
    modules = {room_of(path) for path in FILES}
    functions = {name for name in deblurgan.__all__ if inspect.isfunction(getattr(deblurgan, name))}
    assert not modules & functions


def test_nothing_unsafe_is_called() -> None:
    """Calls by which a file could run code, or a shell be reached."""
    banned = {
        "eval",
        "exec",
        "os.system",
        "pickle.load",
        "pickle.loads",
        "yaml.load",
        "torch.jit.load",
        "torch.export.load",
    }
    for path in [*FILES, *(ROOT / "kernels").glob("*.py"), ROOT / "setup.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                words = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                where = f"{path.name}:{node.lineno}"
                name = ast.unparse(node.func)
                assert name not in banned, where
                assert words.get("shell") is not True, where
                assert name != "torch.load" or words.get("weights_only") is True, where
