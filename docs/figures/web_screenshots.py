"""python docs/figures/web_screenshots.py: makes docs/figures/web-*.webp, the page of `deblurgan web` at work.

It needs the extra `web`, playwright and a Chromium. The photo is the demo picture, shaken by the playground's numbers.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from deblurgan import Deblurrer
from deblurgan.config import WebConfig
from deblurgan.web import playground
from deblurgan.web.server import running

FIGURES = Path(__file__).parent
SHAKE = playground.Shake(seed=3)


def shaken_photo() -> bytes:
    sharp = playground.sharp_picture(playground.DEMO_PICTURE)
    blurred = SHAKE.blur()(sharp, seed=SHAKE.seed, index=0)
    buffer = io.BytesIO()
    Image.fromarray(blurred.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def deblur(page: Any) -> None:
    photo = {"name": "cup.jpg", "mimeType": "image/jpeg", "buffer": shaken_photo()}
    page.set_input_files("#photo input[type=file]", photo)
    page.wait_for_function("document.querySelectorAll('#whole img').length >= 2")
    page.mouse.move(0, 0)


def shake(page: Any) -> None:
    page.get_by_role("tab", name="Camera shake").click()
    page.fill("#seed input", str(SHAKE.seed))
    page.press("#seed input", "Tab")
    page.click("#run")
    page.wait_for_function("document.querySelectorAll('#shaken img').length >= 2")
    page.mouse.move(0, 0)


def main() -> None:
    deblurrer = Deblurrer.from_pretrained(device="cpu", dtype="fp32")
    with running(deblurrer, WebConfig()) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for work, scheme, size in (
            (deblur, "light", (1280, 800)),
            (shake, "dark", (1280, 800)),
            (deblur, "dark", (390, 844)),
        ):
            page = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme=scheme)
            page.goto(address)
            page.wait_for_selector("#photo input[type=file]", state="attached")
            work(page)
            page.wait_for_timeout(1500)  # for the slider's and the spinner's animations
            shown = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            name = f"web-{work.__name__}{'-phone' if size[0] < 500 else ''}.webp"
            shown.save(FIGURES / name, quality=88, method=6)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
