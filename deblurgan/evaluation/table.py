"""Plain text of at most 100 columns: tables and paragraphs with a title."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 100
GAP = "  "


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> list[str]:
    """Lines with columns as wide as they need; those in `numbers` lie to the right. Columns that do not fit beside the
    first follow below, with the first again."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines: list[str] = []
    left = list(range(1, len(heads)))
    while left:
        shown = [0, left.pop(0)]
        while left and sum(widths[i] + len(GAP) for i in [*shown, left[0]]) - len(GAP) <= WIDTH:
            shown.append(left.pop(0))
        for row in (heads, *rows):
            cells = [row[i].rjust(widths[i]) if i in numbers else row[i].ljust(widths[i]) for i in shown]
            lines.append(GAP.join(cells).rstrip())
        if left:
            lines.append("")
    return lines


def paragraphs(words: dict[str, str]) -> list[str]:
    """Each text behind its title, wrapped."""
    indent = " " * (max(map(len, words), default=0) + len(GAP))
    return [
        line
        for title, text in words.items()
        for line in textwrap.wrap(
            text, WIDTH, initial_indent=title.ljust(len(indent)), subsequent_indent=indent, break_on_hyphens=False
        )
    ]
