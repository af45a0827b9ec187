"""Datasets, losses, optimisers and callbacks of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import deblurgan
from conftest import texture
from deblurgan import checkpoint, images
from deblurgan.checkpoint import CheckpointError
from deblurgan.config import train_config
from deblurgan.data import Crops, Mixed, PairedFolder, SharpFolder
from deblurgan.data.own import from_own
from deblurgan.training import Callback, Trainer
from picture_folders import write_pairs
from small_training import SMALL, history, same, trainer

CROPS = Crops(16)


def picture(i: int) -> np.ndarray:
    return texture(40, 48, seed=i)


class Pairs(Dataset[Any]):
    """Pairs as `make` gives them of uint8 pixels [h, w, 3]."""

    def __init__(self, count: int = 6, make: Callable[[np.ndarray], Any] = lambda pixels: pixels) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        return self.make(picture(i) // 2), self.make(picture(i))


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def run_of(data: Any, out: Path, **options: Any) -> Trainer:
    own = {name: options.pop(name) for name in ("val", "losses", "optimizer", "callbacks", "log") if name in options}
    return Trainer(train_config("own", out=out, **{**SMALL, **options}), data=data, **own)


@pytest.mark.parametrize(
    "make",
    [
        lambda pixels: pixels,
        lambda pixels: np.float64(pixels) / 255,
        tensor,
        lambda pixels: tensor(pixels) / 255,
        lambda pixels: (tensor(pixels) / 255).double().requires_grad_(),
        Image.fromarray,
    ],
    ids=["array", "float array", "tensor", "float tensor", "tensor of a graph", "PIL"],
)
def test_pictures_of_every_kind_are_the_same_bytes(make: Callable[[np.ndarray], Any]) -> None:
    pair = from_own("data", Pairs(make=make), CROPS, 0).whole(3)
    assert torch.equal(pair.sharp, tensor(picture(3))) and torch.equal(pair.blurred, tensor(picture(3) // 2))


@pytest.mark.parametrize("keys", [("blurred", "sharp"), ("blur", "sharp")])
def test_items_may_be_mappings_and_datasets_lists(keys: tuple[str, str]) -> None:
    items = [dict(zip((*keys, "name"), (*Pairs()[i], str(i)), strict=True)) for i in range(2)]
    assert torch.equal(from_own("data", items, CROPS, 0).whole(1).sharp, tensor(picture(1)))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    "data, message",
    [
        (DataLoader(Pairs()), r"a Dataset of \(blurred, sharp\) pairs, got a DataLoader: give its dataset"),
        (Endless(), "got Endless, which has no index: give one with __len__ and __getitem__"),
        (iter([1]), "got list_iterator, which has no index"),
        ({"a": 1}, "got dict"),
        (5, "got int"),
        ([], "data must hold pairs, got an empty list"),
        ([tensor(picture(0))], "got list of Tensor"),
        ([(1, 2, 3)], "got list of tuples of 3"),
        ([{"sharp": 1, "x": 2}], "got list of mappings of sharp, x, without 'blurred' and 'sharp'"),
        (
            [(picture(0).astype(int),) * 2],
            r"list\[0\]: TypeError: pictures must be uint8 or floats .*, got int64",
        ),
        ([(picture(0) * 1.0,) * 2], r"pictures must be uint8 or floats in \[0, 1\], got 0 to "),
        ([(np.full((40, 40, 3), np.nan),) * 2], r"floats in \[0, 1\], got "),
        ([(picture(0)[..., 0],) * 2], r"pictures must be \[h, w, 3\], got \(40, 48\)"),
        ([(torch.zeros(40, 48, 3),) * 2], r"pictures must be \[3, h, w\], got \(40, 48, 3\)"),
        ([("a.png", "b.png")], "pictures must be tensors, arrays or PIL images, got str"),
        ([(picture(0), picture(0)[1:])], "48x40 blurred but 48x39 sharp"),
    ],
)
def test_what_is_no_dataset_of_pairs_is_said(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        deblurgan.train(data, out=tmp_path / "run", log=None, **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_run_on_own_pairs_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """With a bad item and one below the crop, which are left out, and loaded by threads."""

    def make(i: int) -> Any:
        if i == 4:
            raise RuntimeError("no such record")
        return tuple(part[:12] for part in Pairs()[i]) if i == 5 else Pairs()[i]

    class Odd(Pairs):
        def __getitem__(self, i: int) -> Any:
            return make(i)

    lines: list[str] = []
    options = {"val": Pairs(2), "max_bad_fraction": 0.5}
    whole = run_of(Odd(8), tmp_path / "whole", log=lines.append, **options)
    whole.fit()
    told = [line for line in lines if line.startswith("left out")]
    assert sorted(told) == [
        "left out Odd[4]: RuntimeError: no such record",
        "left out Odd[5]: 48x12 is below the crop of 16",
    ]
    assert whole.folder.config.read_text().startswith("data: <Odd>")

    class StopAt3(Callback):
        def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
            if trainer.steps_done == 3:
                trainer.stop()

    run_of(Odd(8), tmp_path / "parts", callbacks=[StopAt3()], **options).fit()
    second = run_of(Odd(8), tmp_path / "parts", workers=2, **options)
    second.fit()
    assert second.steps_done == 6 and same(whole.state_dict(), second.state_dict())
    for other in (Odd(7), Pairs(8)):
        with pytest.raises(ValueError, match="data holds other pictures"):
            run_of(other, tmp_path / "parts", **options).fit()


def test_own_pairs_are_held_out_and_cropped_as_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for kind, divisor in (("blur", 2), ("sharp", 1)):
        (folder / kind).mkdir(parents=True)
        for i in range(6):
            images.write(images.Picture(picture(i) // divisor), folder / kind / f"{i}.png")
    of_files, own = trainer(folder, tmp_path / "a"), run_of(Pairs(), tmp_path / "b")
    given = run_of(PairedFolder(folder, seed=7), tmp_path / "c")
    assert len(own.val_set) == len(of_files.val_set) == 1
    for other in (own, given):
        for step in range(4):
            batch, wanted = other.batches[step], of_files.batches[step]
            assert torch.equal(batch.blurred, wanted.blurred) and torch.equal(batch.sharp, wanted.sharp)


def test_a_pair_dataset_keeps_its_blur_and_takes_the_options_crops(photos: Path, tmp_path: Path) -> None:
    class Black(deblurgan.MotionBlur):
        def forward(self, x: Tensor, **options: Any) -> Tensor:
            return torch.zeros_like(super().forward(x, **options))

    sharp = SharpFolder(photos, blur=Black())
    run = run_of(Mixed(sharp, sharp), tmp_path, val=sharp)
    assert run.batches[0].sharp.shape == (2, 3, 16, 16) and not run.batches[0].blurred.any()
    assert not run.val_set.whole(0).blurred.any() and sharp.crops.size == 256


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        assert restored.dtype == sharp.dtype == torch.float32
        return self.weight * (restored - sharp).square()


def test_an_own_loss_trains_as_the_same_one_of_ours_does(tmp_path: Path) -> None:
    """Alone, in bf16, as a module that is frozen; it stands in the history and the log."""
    lines: list[str] = []
    options = {"pixel": "none", "precision": "bf16"}
    own = Trainer(
        train_config("x", out=tmp_path / "own", losses=("mine",), **{**SMALL, **options}),
        data=Pairs(),
        losses={"mine": Weighted()},
        log=lines.append,
    )
    own.fit()
    ours = run_of(Pairs(), tmp_path / "ours", pixel_weight=3.0, precision="bf16")
    ours.fit()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    rows = [[row for row in history(tmp_path / run) if row["lr"]] for run in ("own", "ours")]
    assert [float(row["mine"]) for row in rows[0]] == pytest.approx([float(row["pixel"]) for row in rows[1]], rel=1e-4)
    assert any("  mine 0." in line for line in lines)
    assert train_config("x", losses=["mine"]).losses == ("mine",)
    with pytest.raises(ValueError, match="out holds a run with another gan, losses"):
        run_of(Pairs(), tmp_path / "own", losses={"other": Weighted()}, **options, gan="lsgan").fit()
    deblurgan.train(
        Pairs(), losses={"mine": Weighted()}, out=tmp_path / "alone", log=None, **{**SMALL, **options, "steps": 1}
    )


@pytest.mark.parametrize(
    "losses, message",
    [
        ({"pixel": Weighted()}, "losses must have names that history.csv has no column of, got 'pixel'"),
        ({"a,b": Weighted()}, "got 'a,b'"),
        ({"x": 3}, "losses must be functions, got 'x': int"),
    ],
)
def test_bad_losses_are_said(losses: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_of(Pairs(), tmp_path, losses=losses)


def test_a_loss_that_is_no_tensor_is_said(tmp_path: Path) -> None:
    run = run_of(Pairs(), tmp_path, losses={"x": lambda restored, sharp: 0.5})
    with pytest.raises(TypeError, match=r"losses\['x'\] must return a tensor, got float"):
        run.step(run.batches[0])


@pytest.mark.parametrize("part", ["losses", "optimizer"])
def test_a_config_that_names_own_parts_needs_them(part: str, photos: Path, tmp_path: Path) -> None:
    named: Any = {"losses": ("x",), "optimizer": "own"}
    with pytest.raises(ValueError, match=f"{part} of your own must be given from Python"):
        Trainer(train_config(photos, out=tmp_path, **{**SMALL, part: named[part]}))


FACTORIES: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nadam": lambda p: torch.optim.NAdam([{"params": p[:2], "lr": 1e-4}, {"params": p[2:]}], lr=1e-3),
    "rprop": lambda p: torch.optim.Rprop(p),
}


class Counting(torch.optim.SGD):
    """Its steps are counted per parameter and for its group, as numbers."""

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        group["k"] = group.get("k", 0) + 1
        for p in group["params"]:
            self.state[p]["count"] = self.state[p].get("count", 0) + 1
            p.data.sub_(p.grad, alpha=group["lr"] / group["k"] / self.state[p]["count"])


FACTORIES["numbers"] = lambda p: Counting([{"params": p, "k": 0}], lr=0.1)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_run_with_an_own_optimizer_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    options = {"optimizer": FACTORIES[name], "schedule": "cosine"}
    whole = run_of(Pairs(), tmp_path / "whole", **options)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    whole.fit()
    assert not torch.equal(before["generator.stem.weight"], whole.state_dict()["generator.stem.weight"])
    first = run_of(Pairs(), tmp_path / "parts", **options)
    first.step(first.batches[0])
    first.step(first.batches[1])
    first.folder.path.mkdir()
    first.save()
    second = run_of(Pairs(), tmp_path / "parts", **options)
    second.fit()
    assert second.steps_done == 6 and same(whole.state_dict(), second.state_dict())


def test_own_learning_rates_follow_the_schedule(tmp_path: Path) -> None:
    made: list[torch.optim.Optimizer] = []

    def factory(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        tensor = torch.tensor(0.5)
        made.append(torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": tensor}], lr=0.25))
        return made[0]

    run = run_of(Pairs(), tmp_path, optimizer=factory, schedule="cosine", lr=1e-3)
    for step in range(3):
        share = run.learning_rate() / 1e-3
        run.step(run.batches[step])
        assert [float(group["lr"]) for group in made[0].param_groups] == pytest.approx([0.25 * share, 0.5 * share])
    assert share < 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_own_optimizer_skips_what_is_not_finite(precision: str, tmp_path: Path) -> None:
    """In fp16 its gradients are without the loss scale."""
    poison = [1.0, float("nan"), 1.0]
    norms: list[float] = []

    class Noting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))
            return super().step(closure)

    options: dict[str, Any] = {"optimizer": lambda p: Noting(p, lr=0.01), "precision": precision}
    run = run_of(
        Pairs(), tmp_path, losses={"x": lambda a, b: poison[run.steps_done] * (a - b).square().mean()}, **options
    )
    values = []
    for step in range(3):
        before = {name: value.clone() for name, value in run.networks.generator.state_dict().items()}
        values.append(run.step(run.batches[step]))
        assert same(before, run.networks.generator.state_dict()) == (step == 1)
    assert norms == pytest.approx([float(values[i]["generator_grad"]) for i in (0, 2)], rel=1e-5)


@pytest.mark.parametrize(
    "optimizer, message",
    [
        (3, "optimizer must make an optimizer of parameters, got int"),
        (lambda p: None, "optimizer must make a torch.optim.Optimizer, got NoneType"),
        (lambda p: torch.optim.SGD(p[1:], lr=1.0), r"optimizer must take all \d+ parameters it is given, took \d+"),
    ],
)
def test_bad_optimizers_are_said(optimizer: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_of(Pairs(), tmp_path, optimizer=optimizer)


def test_a_state_that_no_file_can_hold_is_said(tmp_path: Path) -> None:
    run = run_of(Pairs(), tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    run.step(run.batches[0])
    own = run.one_step.optimizers.own
    assert own is not None
    own.optimizer.state[own.param_groups[0]["params"][0]]["past"] = [1, 2]
    with pytest.raises(TypeError, match="tensors and numbers to be saved, got 'past': list"):
        run.save()


def test_a_run_goes_on_with_its_own_kind_of_optimizer_alone(tmp_path: Path) -> None:
    run_of(Pairs(), tmp_path, steps=2, optimizer=FACTORIES["adamw"]).fit()
    with pytest.raises(CheckpointError, match="state must be of the same optimizer"):
        run_of(Pairs(), tmp_path, steps=2, optimizer=FACTORIES["momentum"]).fit()
    with pytest.raises(ValueError, match="out holds a run with another optimizer"):
        run_of(Pairs(), tmp_path, steps=2).fit()


class Noting(Callback):
    def __init__(self, name: str, told: list[str], fails: str = "") -> None:
        self.name, self.told, self.fails = name, told, fails

    def note(self, event: str, trainer: Trainer) -> None:
        self.told.append(f"{self.name}{event} {trainer.steps_done}")
        if event == self.fails and trainer.steps_done >= 2 * (event != "start"):
            raise LookupError(event)

    def on_fit_start(self, trainer: Trainer) -> None:
        self.note("start", trainer)

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        self.note("step", trainer)

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        self.note("log", trainer)

    def on_validation_end(self, trainer: Trainer, found: Any) -> None:
        self.note("validated", trainer)

    def on_save(self, trainer: Trainer) -> None:
        self.note("save", trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        self.note("end", trainer)


def test_callbacks_are_told_in_order(tmp_path: Path) -> None:
    told: list[str] = []
    run_of(Pairs(), tmp_path, steps=3, callbacks=[Noting("a ", told), Noting("b ", told)]).fit()
    assert told[::2] == [line.replace("b ", "a ") for line in told[1::2]], "each event in the order of the callbacks"
    assert [line.removeprefix("a ") for line in told[::2]] == [
        *("start 0", "step 1", "save 1", "step 2", "log 2", "step 3"),
        *("log 3", "validated 3", "log 3", "save 3", "end 3"),
    ]


@pytest.mark.parametrize("event", ["start", "step", "log", "validated", "save", "end"])
def test_what_a_callback_raises_ends_a_training_that_is_saved(event: str, tmp_path: Path) -> None:
    told: list[str] = []
    run = run_of(Pairs(), tmp_path, steps=3, callbacks=[Noting("", told, event)])
    with pytest.raises(LookupError, match=event):
        run.fit()
    if event == "start":
        assert not run.folder.state.exists()
        return
    last = int(told[-1].split()[1])
    assert last == run.steps_done and int(checkpoint.load_tensors(run.folder.state)[1]["step"]) == last
    assert run_of(Pairs(), tmp_path, steps=3).fit().steps == 3


@pytest.mark.parametrize("event", ["step", "log", "validated"])
def test_a_callback_may_stop_a_training(event: str, tmp_path: Path) -> None:
    class Stopping(Noting):
        def note(self, found: str, trainer: Trainer) -> None:
            super().note(found, trainer)
            if found == event and trainer.steps_done >= 2:
                trainer.stop()

    told: list[str] = []
    result = run_of(Pairs(), tmp_path, callbacks=[Stopping("", told)]).fit()
    assert result.steps == (3 if event == "validated" else 2) and result.best_psnr > 0
    assert told[-2:] == [f"save {result.steps}", f"end {result.steps}"]
    assert history(tmp_path)[-1]["val_psnr"]
    assert run_of(Pairs(), tmp_path).fit().steps == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda pixels: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        lambda pixels: Image.fromarray(pixels[..., 0]),
        lambda pixels: np.repeat(pixels[..., :1], 3, 2) * np.float64(1.0005 / 255) - 2e-4,
    ],
    ids=["16 bits", "grey", "rounded past 1"],
)
def test_pictures_in_other_modes_and_a_little_out_of_range_are_the_same(make: Callable[[np.ndarray], Any]) -> None:
    wanted = tensor(picture(1))[:1].expand(3, -1, -1)
    assert torch.equal(from_own("data", Pairs(make=make), CROPS, 0).whole(1).sharp, wanted)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.zeros((0, 40, 3), np.uint8), r"pictures must be \[h, w, 3\], got \(0, 40, 3\)"),
        (Image.new("F", (40, 40)), "floating-point pixels are not supported"),
    ],
)
def test_pictures_that_are_none_are_left_out_by_their_name(wrong: Any, message: str) -> None:
    with pytest.raises(images.ImageError, match=message) as error:
        from_own("data", [(wrong, wrong)], CROPS, 0).whole(0)
    assert str(error.value.path) == "list[0]"


def test_own_mixed_pairs_hold_out_some_of_the_pairs(photos: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", n=5)
    run = run_of(Mixed(SharpFolder(photos), PairedFolder(tmp_path / "pairs")), tmp_path / "run")
    drawn = {run.train_set.path(i, epoch=epoch) for epoch in range(2) for i in range(len(run.train_set))}
    assert len(run.train_set) == 12 and len(drawn) == 8 and run.val_set.names() == ["blur/0.png"]
    assert run.val_set.path(0) not in drawn


def test_datasets_count_from_the_end_and_a_part_of_a_mix_is_one(photos: Path) -> None:
    sharp = SharpFolder(photos, crops=CROPS, blur=deblurgan.MotionBlur(seed=0))
    assert torch.equal(sharp[-1].blurred, sharp[3].blurred) and torch.equal(sharp[np.int64(2)].sharp, sharp[2].sharp)
    with pytest.raises(IndexError):
        sharp[-5]
    part = Mixed(sharp, sharp).take([11, 0])
    assert [part.path(i, epoch=1) for i in range(2)] == [Mixed(sharp, sharp).path(i, epoch=1) for i in (11, 0)]
