"""Scenes as a page shows them: each system's picture beside the others, with what a detector found in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deblurgan.detection.boxes import Detections
from deblurgan.display import counted
from deblurgan.evaluation.detected import Rules, matched
from deblurgan.evaluation.records import Row
from deblurgan.evaluation.systems import BLURRED, SHARP
from deblurgan.images.compare import most_changed
from deblurgan.pages.parts import embedded, encoded, escaped

Pixels = NDArray[np.uint8]  # [h, w, 3]

CROP = 320  # px, at most: the side of what is shown in original pixels
LEAST = 64  # px of it, however little may be stored
SMALL = 240  # px, the longer side of a whole picture
BOXED = 640  # px of one with boxes


def looks(
    row: Row, pictures: Mapping[str, Tensor], captions: Mapping[str, str], rules: Rules | None, room: int
) -> tuple[str, str]:
    """Of a scene, as HTML: the whole picture, small, and every picture where blurred and sharp differ most.

    Args:
        pictures: uint8 [3, h, w] of the systems in order, "blurred" and "sharp" among them, all of one size.
        captions: HTML beside a system's name.
        rules: by which boxes are drawn; None for none.
        room: bytes that the pictures may take in the page.
    """
    pixels = {name: picture.permute(1, 2, 0).numpy() for name, picture in pictures.items()}
    h, w = pixels[SHARP].shape[:2]
    wholes = "" if rules is None else _wholes(row, pixels, rules)
    side, (top, left), files = _crops(pixels, room - len(wholes))
    height, width = min(side, h), min(side, w)
    where = f"{left}, {top}"
    frame = f'<rect class="frame" x="{left}" y="{top}" width="{width}" height="{height}"/>'
    small = _whole(pixels[BLURRED], SMALL, f"{row.picture}, whole", frame)
    crops = [
        f"<figure><figcaption><b>{escaped(name)}</b>{captions.get(name, '')}</figcaption>"
        f"{embedded(file, 'webp', (width, height), f'{row.picture}, {name}, pixels from {where}')}</figure>"
        for name, file in files.items()
    ]
    return small, f'<div class="crops" style="--side: {width}px; {_across(crops, 5)}">{"".join(crops)}</div>{wholes}'


def _across(figures: Sequence[str], most: int) -> str:
    """How many stand side by side: all, or half of them where they are more than `most`."""
    return f"--across: {len(figures) if len(figures) <= most else math.ceil(len(figures) / 2)}"


def _crops(pixels: Mapping[str, Pixels], room: int) -> tuple[int, tuple[int, int], dict[str, bytes]]:
    """The side of the square in which blurred and sharp differ most, its upper left corner, and it as lossless files.

    It is as large as they fit into `room` bytes in base64, from LEAST to CROP px.
    """
    side = CROP
    while True:
        window = min(side, pixels[SHARP].shape[0]), min(side, pixels[SHARP].shape[1])
        ((top, left),) = most_changed(pixels[BLURRED], pixels[SHARP], window)
        cut = np.s_[top : top + window[0], left : left + window[1]]
        files = {name: encoded(one[cut], "WebP", lossless=True, quality=20, method=2) for name, one in pixels.items()}
        taken = 4 / 3 * sum(map(len, files.values()))
        if taken <= room or side == LEAST:
            return side, (top, left), files
        share = max(room, 1) / taken
        side = max(LEAST, min(side - 16, int(side * share**0.5) // 16 * 16))


def _wholes(row: Row, pixels: Mapping[str, Pixels], rules: Rules) -> str:
    """The whole pictures in which a detector looked, with what it found."""
    truth = row.detections.get(SHARP, Detections([], [], [])).above(rules.confidence)
    if not any(found.above(rules.confidence).labels for found in row.detections.values()):
        return '<p class="nothing">The detector finds nothing in any of them.</p>'
    figures = []
    for name, one in pixels.items():
        if name not in row.detections:
            continue
        found = row.detections[name].above(rules.confidence)
        objects = matched(found, truth, rules.iou)
        missed = [i for i in range(len(truth.labels)) if i not in objects]
        counts = {
            "found": sum(i is not None for i in objects),
            "missed": len(missed),
            "false": objects.count(None),
        }
        words = (
            counted(counts["found"], "object")
            if name == SHARP
            else ", ".join(f"{n} {kind}" for kind, n in counts.items())
        )
        width = one.shape[1]
        boxes = [_box("missed", truth, i, rules, width) for i in missed]
        boxes += [_box("false" if i is None else "found", found, k, rules, width) for k, i in enumerate(objects)]
        figures.append(
            f"<figure><figcaption><b>{escaped(name)}</b><span>{words}</span></figcaption>"
            f"{_whole(one, BOXED, f'{row.picture}, {name}: {words}', ''.join(boxes))}</figure>"
        )
    return f'<div class="wholes" style="{_across(figures, 4)}">{"".join(figures)}</div>'


def _box(kind: str, detections: Detections, index: int, rules: Rules, width: int) -> str:
    """A box with its class and score, in a picture of that width."""
    left, top, right, bottom = detections.boxes[index]
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    size = width / 30
    words = f"{rules.classes[detections.labels[index]]} {detections.scores[index]:.2f}"
    at = f'x="{max(left, 0) + size / 5:.1f}" y="{max(top, 0) + size:.1f}"'
    return (
        f'<g class="{kind}"><title>{kind}: {escaped(words)}</title><rect class="halo" {place}/><rect {place}/>'
        f'<text {at} style="font-size: calc({size:.1f}px / var(--zoom, 1))">{escaped(words)}</text></g>'
    )


def _whole(pixels: Pixels, longest: int, alt: str, drawn: str) -> str:
    """The picture, reduced, with SVG drawn over it in its pixels."""
    h, w = pixels.shape[:2]
    share = min(1.0, longest / max(h, w))
    size = max(1, round(w * share)), max(1, round(h * share))
    reduced = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    image = embedded(encoded(np.asarray(reduced), "WebP", quality=80, method=2), "webp", size, alt)
    overlay = f'<svg class="over" viewBox="0 0 {w} {h}" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    return f'<div class="whole" style="--wide: {size[0]}px">{image}{overlay}</div>'


LEGEND = (
    '<p class="legend">Boxes: <span class="found">found again</span> <span class="missed">missed</span> '
    '<span class="false">false, not in the sharp picture</span></p>'
)

DIALOG = """<dialog aria-labelledby="closer"><div class="bar"><b id="closer"></b>
<span class="zooms"></span><button type="button" class="close">Close</button></div>
<div class="panes"></div>
<p>Move the pointer, a finger or the arrow keys to look around; + and \N{MINUS SIGN} or the wheel to zoom.</p>
</dialog>"""

STYLE = """
small { display: block; font-size: .8rem; color: var(--soft); white-space: nowrap; }
.duo { grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); } .words th { vertical-align: top; }
.figures { font-variant-numeric: tabular-nums; } .figures td, .figures th { vertical-align: top; }
.figures tr + tr { border-top: 1px solid var(--rule); } .figures thead { border-bottom: 1px solid var(--rule); }
.figures small.gain { color: var(--main); } .figures small.loss { color: var(--loss); }
article { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: .4rem 1.4rem; padding: 1.1rem 0;
  border-top: 1px solid var(--rule); }
article h3 { font-size: .95rem; color: var(--ink); } article .about { padding: 0 !important; min-width: 0; }
article .whole { margin-bottom: .5rem; } article .about b { display: block; margin-bottom: .6rem; }
article .about p { margin: .1rem 0 .5rem; font-size: .85rem; }
article > div { min-width: 0; }
.crops figure, .wholes figure { background: none; border-radius: 0; padding: 0; min-width: 0; }
.crops figcaption, .wholes figcaption { justify-content: space-between; flex-wrap: wrap; gap: 0 .6em;
  padding-bottom: .2rem; }
.crops figcaption b { white-space: normal; overflow-wrap: anywhere; }
.crops figcaption span, .wholes figcaption span { color: var(--soft); }
.crops, .wholes { display: grid; gap: .7rem; align-items: end; }
.crops { grid-template-columns: repeat(var(--across), minmax(0, var(--side))); }
.nothing { margin-top: .5rem; }
.crops img { max-width: 100%; height: auto; } .live .crops img, .live .wholes .whole { cursor: zoom-in; }
.wholes { grid-template-columns: repeat(var(--across), minmax(0, 1fr)); margin-top: .9rem; }
.wholes span, .panes span { white-space: normal; } .about button { margin-bottom: .4rem; }
.whole { position: relative; max-width: var(--wide); } .whole img { width: 100%; height: auto; }
.over { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; overflow: hidden; }
.over rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
.frame { stroke: #fff; outline: 1px solid #000; }
.over .halo { stroke: #000 !important; stroke-width: 4; opacity: .45;
  stroke-dasharray: none !important; }
.over text { fill: #fff; paint-order: stroke; stroke: #000; stroke-width: .25em; stroke-linejoin: round; }
.found rect { stroke: #4be08a; } .missed rect { stroke: #ffd23f; stroke-dasharray: 9 6; }
.false rect { stroke: #ff8a80; stroke-dasharray: 3 3; }
.legend span { display: inline-block; margin-right: 1.2em; } .legend span::before { content: ""; display: inline-block;
  width: 1.8em; height: .9em; margin: 0 .45em -.1em .3em; background: #333; border: 2px solid #4be08a; }
.legend .missed::before { border: 2px dashed #ffd23f; } .legend .false::before { border: 2px dotted #ff8a80; }
button { font: inherit; font-size: .85rem; padding: .35rem .8rem; border: 1px solid var(--soft); border-radius: 6px;
  background: var(--card); color: var(--ink); cursor: pointer; }
button[aria-pressed="true"] { background: var(--main); border-color: var(--main); color: var(--ground); }
:focus-visible { outline: 2px solid var(--main); outline-offset: 2px; }
dialog { width: min(100vw - 1rem, 90rem); max-width: none; max-height: calc(100vh - 1rem); padding: .8rem 1rem;
  border: 1px solid var(--rule); border-radius: 10px; background: var(--ground); color: var(--ink); }
dialog::backdrop { background: #000b; } dialog p { margin: .6rem 0 0; font-size: .82rem; }
.bar { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin-bottom: .7rem; }
.bar b { flex: 1 1 12rem; overflow-wrap: anywhere; } .zooms { display: flex; gap: .35rem; }
.panes { display: grid; align-items: end; gap: .7rem;
  grid-template-columns: repeat(auto-fit, minmax(min(17rem, 46%), 1fr)); }
.panes > div { min-width: 0; } .panes figcaption { flex-wrap: wrap; gap: 0 .6em; }
.pane { position: relative; overflow: hidden; aspect-ratio: 1; max-height: 74vh; width: 100%; background: var(--card);
  cursor: crosshair; touch-action: none; }
.pane img, .pane svg { position: absolute; max-width: none; image-rendering: pixelated; user-select: none; }
.pane i { position: absolute; width: 16px; height: 16px; margin: -8px; border: 2px solid #fff; border-radius: 50%;
  outline: 1px solid #000; pointer-events: none; }
@media print { button { display: none; } figure { break-inside: avoid; } }
@media (max-width: 46rem) { .tiles { grid-template-columns: 1fr 1fr; }
  article { grid-template-columns: minmax(0, 1fr); }
  .crops, .wholes { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .about { display: grid; grid-template-columns: minmax(0, 9rem) 1fr; gap: 0 .9rem; align-items: start; } }
"""

SCRIPT = """
"use strict";
const dialog = document.querySelector("dialog"), panes = dialog.querySelector(".panes");
const ZOOMS = [1, 2, 4, 8];
let zoom = 2, x = 0.5, y = 0.5;

const start = (pane, size, share) => size > pane ? (pane - size) * share : (pane - size) / 2;

function draw() {
  for (const pane of panes.querySelectorAll(".pane")) {
    const image = pane.firstChild, w = image.naturalWidth * zoom, h = image.naturalHeight * zoom;
    const left = start(pane.clientWidth, w, x), top = start(pane.clientHeight, h, y);
    for (const shown of pane.querySelectorAll("img, svg"))
      Object.assign(shown.style, {width: w + "px", height: h + "px", left: left + "px", top: top + "px"});
    pane.style.setProperty("--zoom", zoom);
    Object.assign(pane.lastChild.style, {left: left + x * w + "px", top: top + y * h + "px"});
  }
  for (const button of dialog.querySelectorAll("[aria-pressed]"))
    button.setAttribute("aria-pressed", String(+button.value === zoom));
}

function look(dx, dy) {
  [x, y] = [dx, dy].map(share => Math.min(1, Math.max(0, share)));
  draw();
}

function zoomTo(value) {
  zoom = Math.min(ZOOMS.at(-1), Math.max(ZOOMS[0], value));
  draw();
}

function point(event) {
  const pane = event.currentTarget, image = pane.firstChild, box = pane.getBoundingClientRect();
  const share = (at, room, size) => size > room ? at / room : (at - (room - size) / 2) / size;
  look(share(event.clientX - box.left, box.width, image.naturalWidth * zoom),
    share(event.clientY - box.top, box.height, image.naturalHeight * zoom));
}

const titleOf = article => [...article.querySelectorAll("h3, h3 + p")].map(part => part.textContent).join(" ");

function open(figures) {
  dialog.querySelector("#closer").textContent = titleOf(figures.closest("article"));
  panes.replaceChildren(...[...figures.children].map(figure => {
    const whole = document.createElement("div"), pane = document.createElement("div");
    pane.className = "pane";
    pane.append(...[...figure.querySelectorAll("img, svg")].map(shown => shown.cloneNode(true)),
      document.createElement("i"));
    pane.addEventListener("pointermove", point);
    pane.addEventListener("pointerdown", point);
    whole.append(figure.querySelector("figcaption").cloneNode(true), pane);
    return whole;
  }));
  dialog.showModal();
  zoom = figures.className === "crops" ? 2 : 1;
  look(0.5, 0.5);
  dialog.querySelector("[aria-pressed=true]").focus();
}

for (const value of ZOOMS) {
  const button = document.createElement("button");
  Object.assign(button, {type: "button", value, textContent: value + "\\u00d7"});
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => zoomTo(value));
  dialog.querySelector(".zooms").append(button);
}
for (const figures of document.querySelectorAll(".crops, .wholes")) {
  const button = document.createElement("button"), article = figures.closest("article");
  const words = figures.className === "crops" ? "Look closer" : "Look at the boxes";
  Object.assign(button, {type: "button", textContent: words});
  button.setAttribute("aria-label", words + ": " + titleOf(article));
  button.addEventListener("click", () => open(figures));
  article.querySelector(".about > div:last-child").append(button, " ");
  for (const image of figures.querySelectorAll("img")) image.parentNode.addEventListener("click", () => open(figures));
}
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
panes.addEventListener("wheel", event => {
  event.preventDefault();
  zoomTo(event.deltaY < 0 ? zoom * 2 : zoom / 2);
}, {passive: false});
dialog.addEventListener("keydown", event => {
  const step = 0.1 / zoom, moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step],
    ArrowDown: [0, step]}[event.key];
  if (moves) look(x + moves[0], y + moves[1]);
  else if (event.key === "+" || event.key === "=") zoomTo(zoom * 2);
  else if (event.key === "-") zoomTo(zoom / 2);
  else return;
  event.preventDefault();
});
addEventListener("resize", () => { if (dialog.open) draw(); });
document.documentElement.classList.add("live");
"""
