"""Tables of measured tilings: which row answers, and files that are damaged or foreign."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from deblurgan.kernels import rows as files
from deblurgan.kernels import table
from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.rows import Row, read, user_table, write
from deblurgan.kernels.table import Table, config_picker, head_config

H200 = Gpu("NVIDIA H200", (9, 0), 132)
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132)
SMALL = Gpu("NVIDIA H20", (9, 0), 78)
TRUNK = ConvShape("trunk", 256, 256, 4096, torch.float16)


def tiling(block_m: int) -> ConvConfig:
    return ConvConfig(block_m, 64, 32)


def row(config: ConvConfig | None, gpu: Gpu = H200, **changes: Any) -> Row:
    return Row(gpu, TRUNK._replace(**changes), config)


def test_the_row_of_most_similar_waves_answers() -> None:
    rows = (row(tiling(16)), row(tiling(32), pixels=65536), row(tiling(64), pixels=8 * 65536))
    pick = Table(H200, (), rows)
    found = {pixels: pick(TRUNK._replace(pixels=pixels)).block_m for pixels in (2048, 4096, 9600, 25600, 57600)}
    assert found == {2048: 16, 4096: 16, 9600: 16, 25600: 32, 57600: 32}
    assert pick(TRUNK._replace(pixels=4000 * 6000 // 16)).block_m == 64, "the largest row has no limit above"
    assert pick.choice(TRUNK._replace(pixels=2000)).source.startswith("the default"), "too few programs for any row"


@pytest.mark.parametrize(
    "change",
    [{"kind": "down"}, {"c_in": 96}, {"c_out": 96}, {"dtype": torch.bfloat16}],
    ids=lambda change: str(*change),
)
def test_rows_answer_for_their_own_layers_alone(change: dict[str, Any]) -> None:
    choice = Table(H200, (), (row(tiling(16)),)).choice(TRUNK._replace(**change))
    assert choice.source == "the default for sm_90"
    assert choice.config != tiling(16)


def test_a_row_may_say_that_cudnn_is_faster() -> None:
    choice = Table(H200, (), (row(None),)).choice(TRUNK)
    assert choice == (None, "the shipped table")


def test_the_user_s_rows_come_first_then_this_gpu_s_then_its_capability_s() -> None:
    user = row(tiling(16), H100)._replace(software=files.software())
    shipped = (row(tiling(32), H200), row(tiling(64), Gpu("NVIDIA H800", (9, 0), 120)))

    def found(gpu: Gpu, user: tuple[Row, ...], shipped: tuple[Row, ...]) -> tuple[int, str]:
        config, source = Table(gpu, user, shipped).choice(TRUNK)
        assert config
        return config.block_m, source

    assert found(H100, (user,), shipped) == (16, "the user's table")
    assert found(H100, (user._replace(software="torch 1"),), shipped) == (32, "the shipped table")
    assert found(H200, (user,), shipped) == (32, "the shipped table"), "a user's rows are of one GPU"
    assert found(H100, (), shipped[1:]) == (64, "the shipped table's rows for sm_90")
    assert found(SMALL, (), shipped[1:])[1] == "the default for sm_90", "too few SMs to be alike"
    assert found(Gpu("NVIDIA A100", (8, 0), 108), (), shipped)[1] == "the default for sm_80"


def test_without_a_gpu_only_the_head_has_a_tiling() -> None:
    pick = config_picker(None)
    assert pick(TRUNK) is None
    head = ConvShape("head", 64, 3, 65536, torch.float16)
    assert head_config(lambda shape: None, head) == pick(head)
    assert pick(head._replace(dtype=torch.float32)) == ConvConfig(64, 64, 32)


def test_of_rows_alike_the_first_answers() -> None:
    rows = (row(tiling(16), pixels=1024), row(ConvConfig(16, 64, 64), pixels=16384))
    assert Table(H200, (), rows)(TRUNK) == rows[0].config
    assert Table(H200, (), rows[::-1])(TRUNK) == rows[1].config


def test_no_pixels_and_parts_of_a_gpu_have_a_choice() -> None:
    for gpu in (
        Gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), 14),
        Gpu("NVIDIA Thor", (11, 0), 20),
        Gpu("", (8, 6), 1),
    ):
        for pixels in (0, 1, 10**12):
            assert Table(gpu, (), (row(tiling(16)),)).choice(TRUNK._replace(pixels=pixels)).source


def test_a_gpu_newer_than_all_defaults_has_cudnn() -> None:
    pick = Table(Gpu("NVIDIA Z100", (19, 0), 500))
    assert pick.choice(TRUNK) == (None, "no row and no default for sm_190")
    assert pick(ConvShape("head", 64, 3, 65536, torch.float16)) is not None


def test_files_come_back_as_written(tmp_path: Path) -> None:
    rows = [row(tiling(16)), row(None, pixels=8)._replace(software="torch 2"), row(tiling(32), dtype=torch.int8)]
    path = tmp_path / "new" / "table.json"
    write(path, rows)
    assert sorted(read(path), key=str) == sorted(rows, key=str)
    assert [entry.name for entry in path.parent.iterdir()] == ["table.json"]
    write(path, [])
    assert read(path) == []


def test_a_write_that_fails_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.json"
    write(path, [row(tiling(16))])
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write(path, [])
    assert read(path) == [row(tiling(16))]
    assert len(list(tmp_path.iterdir())) == 1


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: {"rows": [entry | changes]}


BAD: dict[str, Any] = {
    "not JSON": lambda entry: b"{",
    "not UTF-8": lambda entry: b"\xff\xfe{",
    "nested without end": lambda entry: b"[" * 100_000,
    "too large": lambda entry: b" " * (files.LARGEST + 1),
    "a list": lambda entry: [entry],
    "no rows": lambda entry: {"table": [entry]},
    "rows that are words": lambda entry: {"rows": ["trunk"]},
    "an older table's row": lambda entry: {"rows": [{"gpu": "A", "kind": "trunk", "pixels": 1, "config": {}}]},
    "an unknown option": changed(config={"block_z": 3}),
    "no pixels": changed(pixels=0),
    "more pixels than floats": changed(pixels=10**400),
    "SMs without end": changed(sms=float("inf")),
    "half an SM": changed(sms=0.5),
    "no name": changed(name=None),
    "a type that is none": changed(dtype="Tensor"),
    "a type that no kernel knows": changed(dtype="float64"),
    "a head for cuDNN": changed(kind="head", config=None),
    "8 bits for cuDNN": changed(dtype="int8", config=None),
    "a block of 100": changed(config=asdict(ConvConfig(block_m=100))),
    "too much shared memory": changed(config=asdict(ConvConfig(128, 128, 256, 8, 8))),
    "tma before sm_90": changed(capability=[8, 0], config=asdict(ConvConfig(form="tma"))),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_table_should_not_hold_is_left_out_with_a_warning(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    write(path, [row(tiling(16))])
    content = BAD[name](json.loads(path.read_text())["rows"][0])
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    monkeypatch.setenv("DEBLURGAN_TABLE", str(path))
    with pytest.warns(UserWarning, match=str(path)) as found:
        assert files.user_rows() == []
    assert len(found) == 1
    assert len(str(found[0].message)) < 2000


def test_rows_that_can_be_launched_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, good = tmp_path / "table.json", row(tiling(16))
    write(path, [good, row(ConvConfig(form="pairs"), pixels=64)])
    monkeypatch.setenv("DEBLURGAN_TABLE", str(path))
    with pytest.warns(UserWarning, match=r"1 rows are left out: pairs are transposed"):
        assert files.user_rows() == [good]


@pytest.mark.parametrize("named", ["", "~nobody-of-this-name/table.json", "folder"])
def test_a_name_that_is_no_file_s_breaks_nothing(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DEBLURGAN_TABLE", named)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert files.user_rows() == []
    assert [named in str(warning.message) for warning in found] == [True] * bool(named)


def test_a_table_that_is_named_and_absent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBLURGAN_TABLE", str(tmp_path / "none.json"))
    with pytest.warns(UserWarning, match=r"none\.json, which is not there"):
        assert files.user_rows() == []
    monkeypatch.delenv("DEBLURGAN_TABLE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.user_rows() == []


def test_the_user_s_table_lies_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEBLURGAN_TABLE", raising=False)
    monkeypatch.setattr(files.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_table() == tmp_path / "deblurgan" / "table.json"
    monkeypatch.setenv("DEBLURGAN_TABLE", str(tmp_path / "mine.json"))
    assert user_table() == tmp_path / "mine.json"


def test_the_shipped_rows_are_whole() -> None:
    rows = read(files.SHIPPED)
    assert len({row.key for row in rows}) == len(rows)
    for found in rows:
        assert found.software == ""
        assert found.shape.kind.split(".")[0] in ("stem", "down", "trunk", "up", "head")


def test_names_of_one_chip_are_alike() -> None:
    assert table.alike("NVIDIA H200", "NVIDIA GH200 480GB")
    assert table.alike("NVIDIA A10", "NVIDIA A10")
    assert not table.alike("NVIDIA A100-SXM4-80GB", "NVIDIA A10")
    assert not table.alike("NVIDIA H200", "NVIDIA H20")
