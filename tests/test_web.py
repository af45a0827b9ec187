"""deblurgan web: what the page computes, how its server answers, and the page itself in a headless Chromium."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deblurgan import Deblurrer, images, save_generator
from deblurgan.blur import apply_psf
from deblurgan.cli import main
from deblurgan.config import WebConfig
from deblurgan.metrics import psnr
from deblurgan.nn import Generator
from deblurgan.web import playground, server, work


@pytest.fixture(scope="module")
def deblurrer() -> Deblurrer:
    torch.manual_seed(0)
    return Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32")


def photo(seed: int = 0, h: int = 60, w: int = 90) -> bytes:
    """A JPEG with EXIF."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[271] = "Camera maker"
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((w, h)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


# What the page computes


def test_the_result_is_that_of_the_deblurrer(tmp_path: Path, deblurrer: Deblurrer) -> None:
    source, folder = tmp_path / "a.jpg", tmp_path / "results"
    source.write_bytes(photo())
    folder.mkdir()
    shares = list[float]()
    restored = work.restore(deblurrer, source, folder, progress=shares.append)
    assert shares[-1] == 1
    deblurrer.file(source, tmp_path / "expected.jpg")
    assert restored.file.name == "a-deblurred.jpg"
    assert restored.file.read_bytes() == (tmp_path / "expected.jpg").read_bytes()
    assert [Image.open(path).size for path in (*restored.whole, *restored.detail)] == [(90, 60)] * 4
    before, after = (images.read(path).pixels.astype(int) for path in (source, restored.file))
    assert f"90x60 pixels · changed by {np.abs(after - before).mean():.2f} levels of 255 on average" in restored.summary


def test_what_can_only_be_read_becomes_a_png(tmp_path: Path, deblurrer: Deblurrer) -> None:
    (tmp_path / "results").mkdir()
    Image.open(io.BytesIO(photo())).save(tmp_path / "a.gif")
    restored = work.restore(deblurrer, tmp_path / "a.gif", tmp_path / "results")
    assert restored.file.name == "a-deblurred.png"


@pytest.mark.parametrize(("h", "w", "row", "column"), [(900, 1300, 700, 100), (40, 1300, 3, 1290), (1, 1, 0, 0)])
def test_the_detail_is_where_the_most_changed(tmp_path: Path, h: int, w: int, row: int, column: int) -> None:
    class Whitens(Deblurrer):
        def __init__(self) -> None: ...

        def file(self, source: Any, target: Any, **_: Any) -> tuple[str, ...]:
            pixels = images.read(source).pixels.copy()
            pixels[row, column] = 255
            return images.write(images.Picture(pixels), target)

    Image.new("RGB", (w, h)).save(tmp_path / "a.png")
    (tmp_path / "results").mkdir()
    before, after = map(Image.open, work.restore(Whitens(), tmp_path / "a.png", tmp_path / "results").detail)
    assert before.size == after.size == (min(w, 320), min(h, 320))
    assert (np.asarray(before).max(), np.asarray(after).max()) == (0, 255)


def test_previews_of_large_pictures_are_reduced(tmp_path: Path) -> None:
    image = Image.new("RGB", (3200, 800))
    paths = work.save_pair(image, image, tmp_path, "x")
    assert [Image.open(path).size for path in paths] == [(1600, 400)] * 2
    assert image.size == (3200, 800)


def test_the_playground_blurs_by_the_kernel_that_it_draws(tmp_path: Path, deblurrer: Deblurrer) -> None:
    shake = playground.Shake(seed=3, exposure=0.5, length=30, anxiety=0.004)
    (tmp_path / "sharp.jpg").write_bytes(photo())
    shaken = playground.shake_and_restore(deblurrer, shake, tmp_path / "sharp.jpg", tmp_path)
    sharp = playground.sharp_picture(tmp_path / "sharp.jpg")
    psf = shake.blur().psf(1)[0]
    blurred = apply_psf(sharp, psf)
    restored = deblurrer(blurred)
    for path, expected in zip(shaken.pair, (blurred, restored), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), expected.permute(1, 2, 0).numpy())
    before, after = (float(psnr(x, sharp, 255.0)) for x in (blurred, restored))
    assert shaken.summary == f"PSNR {before:.2f} dB blurred, {after:.2f} dB restored: {after - before:+.2f} dB"
    drawn = shake.drawn()
    factor = len(drawn) // len(psf)
    assert min(drawn.shape) >= playground.SHOWN
    assert np.array_equal(drawn[::factor, ::factor] > 0, np.rint(255 * (psf / psf.max()).sqrt().numpy()) > 0)


def test_a_large_sharp_picture_is_reduced(tmp_path: Path) -> None:
    Image.new("RGBA", (1920, 480)).save(tmp_path / "a.png")
    assert playground.sharp_picture(tmp_path / "a.png").shape == (3, 240, 960)


# Options and the environment


@pytest.mark.parametrize("options", [{"port": 0}, {"port": 65536}, {"max_file_size": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        WebConfig(**options)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],  # noqa: S104
)
def test_loopback_is_told_apart(host: str, expected: bool) -> None:
    assert server.is_loopback(host) is expected


def test_an_open_address_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "_require_gradio", lambda: None)
    options = WebConfig(host="0.0.0.0", port=free_port(), weights=tmp_path / "missing.safetensors")  # noqa: S104
    warned = pytest.warns(UserWarning, match=r"without a password, to all who can reach 0\.0\.0\.0")
    with warned, pytest.raises(FileNotFoundError):
        server.serve(options, log=print)


def test_without_gradio_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    before = dict(os.environ)
    assert main(["web"]) == 2
    assert "pip install 'deblurgan[web]'" in capsys.readouterr().err
    assert dict(os.environ) == before


# The server over HTTP


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Client:
    """Talks to the page as a browser does."""

    def __init__(self, address: str) -> None:
        httpx = pytest.importorskip("httpx", reason="gradio brings httpx")
        self.http = httpx.Client(base_url=address, trust_env=False, verify=False, timeout=60)
        self.folder = Path(os.environ.get("GRADIO_TEMP_DIR", ""))

    def upload(self, name: str, data: bytes) -> Any:
        return self.http.post("/gradio_api/upload", files={"files": (name, data)})

    def call(self, function: str, *inputs: Any) -> tuple[str, Any]:
        """ "complete" and the outputs, or "error" and why."""
        event = self.http.post(f"/gradio_api/call/{function}", json={"data": inputs})
        if event.is_error:
            return "error", event.text
        text = self.http.get(f"/gradio_api/call/{function}/{event.json()['event_id']}").text
        outcome, data = re.findall(r"event: (\w+)\ndata: (.*)", text)[-1]
        return outcome, json.loads(data)

    def deblur(self, name: str, data: bytes) -> tuple[str, Any]:
        (path,) = self.upload(name, data).json()
        return self.call("deblur", file_data(path))

    def try_bad(self, i: int) -> tuple[str, str]:
        """The outcome of the i-th bad file, and why."""
        answer = self.upload(*bad_upload(i))
        if answer.is_error:
            assert answer.status_code == 400
            return "error", answer.text
        outcome, outputs = self.call("deblur", file_data(answer.json()[0]))
        return outcome, outputs["error"] if outcome == "error" else ""

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def client(deblurrer: Deblurrer) -> Iterator[Client]:
    pytest.importorskip("gradio", reason="the page needs gradio, the extra `web`")
    with server.running(deblurrer, WebConfig(port=free_port(), max_file_size=1)) as address:
        yield Client(address)


def test_a_photo_comes_back_as_its_own_file(tmp_path: Path, client: Client, deblurrer: Deblurrer) -> None:
    (tmp_path / "holiday.jpg").write_bytes(photo())
    deblurrer.file(tmp_path / "holiday.jpg", tmp_path / "expected.jpg")
    outcome, (_, whole, detail, summary, download) = client.deblur("holiday.jpg", photo())
    assert outcome == "complete"
    assert Path(download["value"]["path"]).name == "holiday-deblurred.jpg"
    served = client.http.get(download["value"]["url"]).content
    assert served == (tmp_path / "expected.jpg").read_bytes()
    assert Image.open(io.BytesIO(served)).getexif()[271] == "Camera maker"
    assert summary.startswith("90x60 pixels")
    for pair in (whole, detail):
        assert all(client.http.get(picture["url"]).headers["content-type"] == "image/png" for picture in pair)


def test_files_lie_in_a_private_folder(client: Client) -> None:
    assert stat.S_IMODE(client.folder.stat().st_mode) == 0o700
    assert client.folder.name.startswith("deblurgan-web-")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        __file__,
        str(playground.DEMO_PICTURE),  # a picture of this machine that nobody uploaded
        "http://127.0.0.1:1/a.jpg",
    ],
)
def test_nothing_else_is_served(client: Client, path: str) -> None:
    assert client.http.get(f"/gradio_api/file={path}").status_code in (403, 404)
    for claimed in (file_data(path), {"path": path}, path):
        outcome, _ = client.call("deblur", claimed)
        assert outcome == "error"
        outcome, _ = client.call("shake", claimed, 0, 1.0, 60, 0.005)
        assert outcome == "error"
    assert client.http.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_other_sites_have_no_access(client: Client) -> None:
    assert client.http.get("/", headers={"Host": "attacker.example"}).status_code == 400
    answer = client.http.get("/", headers={"Origin": "https://attacker.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["content-security-policy"] == server.POLICY


def test_a_file_above_the_limit_is_refused_and_not_kept(client: Client) -> None:
    before = set(client.files())
    assert client.upload("big.jpg", bytes(1_000_001)).status_code == 413
    assert client.upload("fits.jpg", bytes(900_000)).status_code == 200
    assert {path.name for path in set(client.files()) - before} == {"fits.jpg"}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not list its ports")
def test_only_this_machine_is_listened_to(client: Client) -> None:
    port = f"{client.http.base_url.port:04X}"
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    listening = [where for _, where, _, state, *_ in lines if state == "0A" and where.endswith(f":{port}")]
    assert listening == [f"0100007F:{port}"]


def bad_upload(i: int) -> tuple[str, bytes]:
    """The i-th bad file: text, nothing, a bomb, or a damaged photo, under a name that should not matter."""
    rng = np.random.default_rng(i)
    data = bytearray(photo(i))
    kind = i % 5
    if kind == 0:
        data = bytearray(b"No picture at all. " * int(rng.integers(1, 100)))
    elif kind == 1:
        data = bytearray()
    elif kind == 2:
        data = bytearray(bomb())
    elif kind == 3:
        data = data[: int(rng.integers(2, len(data)))]
    else:
        for at in rng.integers(0, len(data), 40):
            data[at] = rng.integers(0, 256)
    names = [
        "../../a.jpg",
        "/etc/b.png",
        "c\x07\n.jpg",
        "d<img src=x>.jpg",
        "e" * 300 + ".jpg",
        "..",
        "f",
        "\u202eg.webp",
    ]
    return names[i % len(names)], bytes(data)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def test_bad_uploads_end_in_words_and_leave_nothing(
    client: Client,
    deblurrer: Deblurrer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with server.running(deblurrer, WebConfig(port=free_port(), max_file_size=1), kept=1, sweeps=0.2) as address:
        other = Client(address)
        with ThreadPoolExecutor(8) as pool:
            for i, (outcome, reason) in enumerate(pool.map(lambda i: Client(address).try_bad(i), range(200))):
                if i % 5 < 3:
                    assert outcome == "error", i
                if outcome == "error":
                    assert reason, i
                    assert "Traceback" not in reason, i
                    assert "<" not in reason, i
        assert other.deblur("good.jpg", photo())[0] == "complete"
        assert list(tmp_path.iterdir()) == [other.folder]
        gone = time.monotonic() + 15
        while other.files() and time.monotonic() < gone:
            time.sleep(0.2)
        assert not other.files()
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in capfd.readouterr().err


def test_fifty_at_once_all_come_back(client: Client) -> None:
    address = str(client.http.base_url)
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda i: Client(address).deblur(f"{i % 25}.jpg", photo(i % 25)), range(50)))
    assert [outcome for outcome, _ in results] == ["complete"] * 50
    assert [Path(data[4]["value"]["path"]).name for _, data in results] == [
        f"{i % 25}-deblurred.jpg" for i in range(50)
    ]


@pytest.mark.parametrize("numbers", [(0, 2.0, 60, 0.005), (-1, 1.0, 60, 0.005), (0, 1.0, "x", 0.005), (None, 1, 60, 0)])
def test_bad_numbers_of_a_shake_end_in_words(client: Client, numbers: tuple[Any, ...]) -> None:
    outcome, reason = client.call("shake", None, *numbers)
    assert outcome == "error"
    assert "must be" in reason["error"]


def test_a_taken_port_is_said(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    port = client.http.base_url.port
    assert main(["web", "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 cannot be had (Address already in use): try --port" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_in_the_midst_of_a_photo(tmp_path: Path, deblurrer: Deblurrer, number: int) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio, the extra `web`")
    save_generator(deblurrer.generator, tmp_path / "weights.safetensors")
    (tmp_path / "temporary").mkdir()
    words = ["web", "--port", str(free_port()), "--weights", str(tmp_path / "weights.safetensors"), "--device", "cpu"]
    environment = os.environ | {
        "TMPDIR": str(tmp_path / "temporary"),
        "GRADIO_SHARE": "True",
        "HTTP_PROXY": "http://x:1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "deblurgan", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        client = Client(address)
        (path,) = client.upload("large.jpg", photo(h=3000, w=4000)).json()
        client.http.post("/gradio_api/call/deblur", json={"data": [file_data(path)]}).raise_for_status()
        assert list((tmp_path / "temporary").glob("deblurgan-web-*/*/large.jpg"))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file() or "web" in path.name]


# The page in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(client: Client, browser: Any) -> Iterator[Any]:
    """The page, which asks for nothing from elsewhere."""
    address, elsewhere = str(client.http.base_url), list[str]()
    tab = browser.new_page()

    def pass_or_block(route: Any) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    tab.route("**/*", pass_or_block)
    tab.goto(address)
    yield tab
    tab.close()
    assert not elsewhere


def drop(page: Any, name: str, data: bytes) -> None:
    page.set_input_files("#photo input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": data})


def test_a_photo_is_dropped_compared_and_downloaded(page: Any, tmp_path: Path, deblurrer: Deblurrer) -> None:
    (tmp_path / "a.jpg").write_bytes(photo())
    deblurrer.file(tmp_path / "a.jpg", tmp_path / "expected.jpg")
    drop(page, "a.jpg", photo())
    page.wait_for_function("document.querySelectorAll('#whole img').length >= 2")
    page.wait_for_function("[...document.querySelectorAll('#whole img')].every(img => img.complete)")
    slider = page.locator("#whole")
    box = slider.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(0, 0)
    undragged = slider.screenshot(animations="disabled")
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - box["width"] / 4, middle[1], steps=5)
    page.mouse.up()
    page.mouse.move(0, 0)
    assert slider.screenshot(animations="disabled") != undragged
    assert "90x60 pixels" in page.locator("#summary").inner_text()
    with page.expect_download() as downloading:
        page.click("#download")
    assert downloading.value.suggested_filename == "a-deblurred.jpg"
    assert Path(downloading.value.path()).read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def test_a_bad_file_is_explained_on_the_page(page: Any) -> None:
    drop(page, "a.jpg", b"No picture at all")
    page.get_by_text("a.jpg: damaged, or not a").wait_for()
    assert not page.locator("#whole").is_visible()


def test_another_seed_draws_another_kernel(page: Any) -> None:
    page.get_by_role("tab", name="Camera shake").click()
    first = page.get_attribute("#kernel img", "src")
    page.fill("#seed input", "7")
    page.wait_for_function(f"document.querySelector('#kernel img').src != {first!r}")
    page.click("#run")
    page.wait_for_function("document.querySelectorAll('#shaken img').length >= 2")
    assert re.fullmatch(
        r"PSNR \d+\.\d\d dB blurred, \d+\.\d\d dB restored: [+-]\d+\.\d\d dB",
        page.locator("#psnr").inner_text().strip(),
    )
