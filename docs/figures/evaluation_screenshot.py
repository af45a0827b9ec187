"""python docs/figures/evaluation_screenshot.py OUT: makes docs/figures/evaluation.webp, of OUT/report.html.

OUT is the folder of `deblurgan evaluate PHOTOS --protocol detection --kernels 1 --baselines unsharp -o OUT`; the docs'
is of three photos, 001, 006 and 010 of the standing benchmark. The picture holds the page's head with the table of
systems, then the scene that gained most. It needs playwright and a Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FIGURE = Path(__file__).parent / "evaluation.webp"
WIDTH = 1280
MARGIN = 24  # px below the table


def main(out: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto((out / "report.html").resolve().as_uri())
        shown = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        systems = page.locator("section", has=page.get_by_role("heading", name="Systems")).bounding_box()
        best = page.locator("section", has=page.get_by_role("heading", name="Best scenes"))
        title, scene = best.bounding_box(), best.locator("article").first.bounding_box()
        browser.close()
    parts = [
        shown.crop((0, int(top), WIDTH, int(bottom)))
        for top, bottom in (
            (0, systems["y"] + systems["height"] + MARGIN),
            (title["y"] - MARGIN / 2, scene["y"] + scene["height"]),
        )
    ]
    figure = Image.new("RGB", (WIDTH, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        figure.paste(part, (0, top))
        top += part.height
    figure.save(FIGURE, quality=86, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
