"""python docs/figures/night_street.py: makes docs/night-street.webp, one camera shake of a night street, drawn here, as
values are averaged and as a camera does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deblurgan import MotionBlur

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT, FINER = 320, 240, 4  # px of the street, and how much finer it is drawn
SEED, INDEX = 0, 2  # of the shake
GAP, LABEL = 6, 24
WARM, WHITE, RED = (246, 205, 140), (255, 255, 255), (255, 60, 40)


class Street:
    """A street at night, into which things are drawn in px of the finished picture."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER))
        self.pen = ImageDraw.Draw(self.image)
        self.random = np.random.default_rng(5)

    def box(self, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        self.pen.rectangle([FINER * left, FINER * top, FINER * right - 1, FINER * bottom - 1], colour)

    def shape(self, corners: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        self.pen.polygon([(FINER * x, FINER * y) for x, y in corners], colour)

    def lamp(self, x: float, y: float, radius: float, colour: tuple[int, int, int] = WHITE) -> None:
        self.pen.ellipse([FINER * part for part in (x - radius, y - radius, x + radius, y + radius)], colour)

    def house(self, left: int, top: int, right: int, storey: int, shade: int) -> None:
        """A front down to the pavement; of its windows some are lit."""
        self.box(left, top, right, 170, (shade, shade, shade + 8))
        for y in range(top + 8, 150, storey):
            for x in range(left + 6, right - 8, 13):
                lit = self.random.random()
                colour = WARM if lit < 0.16 else (150, 112, 60) if lit < 0.34 else (shade + 12, shade + 14, shade + 24)
                self.box(x, y, x + 6, y + 9, colour)

    def car(self, x: int, y: int, size: float, *, lights: float, colour: tuple[int, int, int]) -> None:
        """Seen along the road, with two lights of a radius in px."""
        roof = y - 16 * size
        self.shape([(x - 17 * size, y), (x - 12 * size, roof), (x + 12 * size, roof), (x + 17 * size, y)], (40, 43, 52))
        self.box(x - 19 * size, y - 2, x + 19 * size, y + 9 * size, (35, 37, 45))
        for side in (-1, 1):
            self.lamp(x + side * 14 * size, y + 2 * size, lights * size, colour)


def draw_street() -> NDArray[np.uint8]:
    """The sharp street, uint8 [h, w, 3]."""
    street = Street()
    for y in range(HEIGHT):  # the sky
        street.box(0, y, WIDTH, y + 1, (8 + y // 16, 10 + y // 14, 24 + y // 8))
    for left, top, right, storey, shade in (
        (0, 30, 62, 20, 26),
        (62, 62, 104, 18, 34),
        (104, 92, 136, 17, 28),
        (196, 84, 232, 17, 30),
        (232, 48, 276, 19, 24),
        (276, 18, 320, 20, 34),
    ):
        street.house(left, top, right, storey, shade)
    street.box(0, 168, WIDTH, HEIGHT, (30, 30, 36))  # the pavement
    street.shape([(150, 160), (178, 160), (300, HEIGHT), (20, HEIGHT)], (20, 20, 25))  # the road
    for y, width, length in ((166, 1, 3), (174, 1.5, 5), (187, 2, 8), (206, 3, 13), (232, 4, 8)):
        street.box(163 - width / 2, y, 163 + width / 2, y + length, (120, 120, 116))
    lamps = ((40, 70, 4.2), (86, 104, 2.6), (116, 126, 1.8), (220, 122, 1.8), (250, 98, 2.6), (296, 64, 4.2))
    for x, y, radius in lamps:
        street.box(x - radius / 4, y, x + radius / 4, 165 + 4 * radius, (46, 46, 50))
        street.lamp(x, y, radius * 1.7, WARM)
        street.lamp(x, y, radius)
    for x, y, size in ((118, 196, 1.0), (150, 172, 0.45)):
        street.car(x, y, size, lights=3.2, colour=WHITE)  # comes
    for x, y, size in ((214, 204, 1.0), (180, 174, 0.5)):
        street.car(x, y, size, lights=2.4, colour=RED)  # goes
    return np.asarray(street.image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def panel(pixels: NDArray[np.uint8], words: str) -> Image.Image:
    """A picture under its label."""
    found = Image.new("RGB", (WIDTH, HEIGHT + LABEL), "white")
    found.paste(Image.fromarray(pixels), (0, LABEL))
    ImageDraw.Draw(found).text((4, 3), words, "black", ImageFont.load_default(14))
    return found


def main() -> None:
    sharp = draw_street()
    plain = MotionBlur(exposure=1.0)(sharp, seed=SEED, index=INDEX)
    camera = MotionBlur(exposure=1.0, realism="camera")(sharp, seed=SEED, index=INDEX)
    panels = [panel(sharp, "sharp"), panel(plain, "values averaged"), panel(camera, 'realism="camera"')]
    whole = Image.new("RGB", (3 * WIDTH + 2 * GAP, HEIGHT + LABEL), "white")
    for i, shown in enumerate(panels):
        whole.paste(shown, (i * (WIDTH + GAP), 0))
    whole.save(ROOT / "docs" / "night-street.webp", quality=90)


if __name__ == "__main__":
    main()
