"""What reports are made of: the page with its looks in light and dark, sections, tables, and pictures within it."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deblurgan import images


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page of HTML. It may load nothing, and run no script but this one.

    title, body: HTML; style: beside STYLE.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return PAGE.format(
        title=title,
        style=STYLE + style,
        body=f"{body}<script>{script}</script>" if script else body,
        scripts=f"; script-src 'sha256-{digest}'" if script else "",
    )


def escaped(text: object) -> str:
    """As HTML that shows the text, which may hold any file's name."""
    return html.escape(images.printable(str(text)))


def section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{title}</h2>{f'<p>{note}</p>' if note else ''}{body}</section>"


def tiles(figures: Mapping[str, tuple[str, str]]) -> str:
    """The figures that one looks for first: a value and a note each, by name."""
    parts = (f"<div><h3>{name}</h3><b>{value}</b><p>{note}</p></div>" for name, (value, note) in figures.items())
    return f'<section class="tiles">{"".join(parts)}</section>'


def table(lines: Iterable[str], kind: str = "") -> str:
    """Of the cells of each line."""
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="{kind}">{rows}</table></div>'


def pairs(values: Mapping[str, object]) -> list[str]:
    """Lines of a table: names and their values."""
    return [f'<th scope="row">{escaped(name)}</th><td>{escaped(written(value))}</td>' for name, value in values.items()]


def written(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(written, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def encoded(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    """A picture [h, w, 3] as a file of Pillow's format `kind`, saved with the options."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def embedded(file: bytes, kind: str, size: tuple[int, int], alt: str = "") -> str:
    """An <img> of a file's bytes; size is (width, height), alt any text."""
    data = base64.b64encode(file).decode()
    width, height = size
    return f'<img alt="{escaped(alt)}" width="{width}" height="{height}" src="data:image/{kind};base64,{data}">'


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{scripts}">
<title>{title}</title><style>{style}</style></head>
<body>{body}</body></html>
"""

STYLE = """
:root { --ground: #fff; --card: #f6f7f8; --ink: #1b1f24; --soft: #667079; --rule: #e2e5e8; --main: #00796b;
  --base: #98a1a9; --loss: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --card: #1d2125; --ink: #e6e9ec; --soft: #98a1a9;
  --rule: #30363c; --main: #4db6ac; --base: #7b858e; --loss: #f2877f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.4rem 0 0; font-size: 1.15rem; }
h3 { margin: 0; font-size: .8rem; font-weight: 500; color: var(--soft); }
p { margin: 0 0 .8rem; color: var(--soft); } time { margin-left: .8em; white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; }
.tiles div, figure { background: var(--card); border-radius: 8px; padding: .8rem 1rem; }
.tiles b { font-size: 1.5rem; font-weight: 600; } .tiles p { margin: 0; font-size: .82rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { font-size: .85rem; display: flex; gap: .6em; align-items: baseline; }
figcaption i { color: var(--soft); font-style: normal; flex: 1; }
figcaption b, figcaption span { white-space: nowrap; }
figcaption span { font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; margin-top: .4rem; } svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--rule); } polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
polyline.main { stroke: var(--main); } polyline.base { stroke: var(--base); stroke-dasharray: 5 4; }
circle.main { fill: var(--main); } circle.base { fill: var(--base); }
circle.loss { fill: var(--loss); } span.main { color: var(--main); }
span.base { color: var(--soft); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th { text-align: left; font-weight: 500; color: var(--soft); } th, td { padding: .25rem 1.2rem .25rem 0; }
.film th, .film td { padding: 0 .4rem .4rem 0; font-size: .82rem; vertical-align: top; }
.film img { border-radius: 4px; }
img { display: block; } .about { padding-left: .6rem !important; min-width: 11rem; }
.gain { color: var(--main); } .loss { color: var(--loss); } .about b { font-size: 1.1rem; }
a { color: inherit; } @media (max-width: 46rem) { .charts svg { overflow: visible; }
  .charts svg text { font-size: 13px; } }
summary { cursor: pointer; margin-top: .6rem; color: var(--main); }
"""
