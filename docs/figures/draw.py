"""python docs/figures/draw.py: draws the figures of the documentation beside itself. No dependencies.

Colours are CSS classes that follow the reader's light or dark mode; each figure brings its own background, so that it
is readable on any page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

STYLE = """
svg { --page: #ffffff; --ink: #1c2733; --dim: #5d6b79; --line: #8a97a4; --tensor: #e4edf7; --rim: #f3c98b;
      --kernel: #1f6f8b; --on-kernel: #ffffff; --waste: #c9ced4; --one: #d9822b; --two: #2f8f5b; --three: #7a5bb5; }
@media (prefers-color-scheme: dark) {
  svg { --page: #161c24; --ink: #e6edf3; --dim: #a3b0bd; --line: #6e7b88; --tensor: #24364a; --rim: #8a6a35;
        --kernel: #2f8aa8; --on-kernel: #ffffff; --waste: #4a535d; --one: #f0a04b; --two: #56c088; --three: #b296ec; }
}
text { fill: var(--ink); font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
.small { font-size: 11.5px; fill: var(--dim); }
.mono { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12px; }
.bold { font-weight: 600; }
.title { font-size: 15px; font-weight: 600; }
.page { fill: var(--page); }
.tensor { fill: var(--tensor); stroke: var(--line); }
.rim { fill: var(--rim); stroke: var(--line); }
.kernel { fill: var(--kernel); }
.on { fill: var(--on-kernel); font-weight: 600; }
.on-small { fill: var(--on-kernel); font-size: 11.5px; }
.waste { fill: var(--waste); stroke: var(--line); }
.cell { fill: var(--tensor); stroke: var(--line); }
.arrow { fill: none; stroke: var(--dim); stroke-width: 1.6; marker-end: url(#head); }
.line { fill: none; stroke: var(--line); }
.one { stroke: var(--one); fill: none; stroke-width: 2.2; } .fill-one { fill: var(--one); }
.two { stroke: var(--two); fill: none; stroke-width: 2.2; } .fill-two { fill: var(--two); }
.headed { marker-end: url(#head); }
.three { stroke: var(--three); fill: none; stroke-width: 2.2; } .fill-three { fill: var(--three); }
.faint { opacity: 0.35; }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" style="fill: var(--dim)"/></marker>'
)


class Figure:
    """Shapes on a page of so many pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def rect(self, x: float, y: float, w: float, h: float, kind: str, radius: float = 0) -> None:
        self.parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{radius}" class="{kind}"/>')

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def path(self, d: str, kind: str = "arrow") -> None:
        self.parts.append(f'<path d="{d}" class="{kind}"/>')

    def tensor(self, x: float, y: float, lines: list[str], *, border: bool = False, w: int = 132, h: int = 74) -> None:
        """A tensor with its name, shape and bytes, in a rim where it has a border."""
        if border:
            self.rect(x - 8, y - 8, w + 16, h + 16, "rim")
        self.rect(x, y, w, h, "tensor")
        top = y + h / 2 - 9 * (len(lines) - 1) + 4
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 18 * i, line, "bold" if i == 0 else "small", "middle")

    def kernel(self, x: float, y: float, lines: list[str], *, w: int = 138, h: int = 74) -> None:
        """A kernel with what it does and its floor."""
        self.rect(x, y, w, h, "kernel", 10)
        top = y + h / 2 - 8.5 * (len(lines) - 1) + 4
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 17 * i, line, "on" if i == 0 else "on-small", "middle")

    def save(self, path: Path) -> None:
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        body = "\n".join(self.parts)
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(self.title)}</title>\n'
            f"<style>{STYLE}</style>\n<defs>{HEAD}</defs>\n"
            f'<rect width="{self.width}" height="{self.height}" rx="8" class="page"/>\n{body}\n</svg>\n'
        )


def residual_block() -> Figure:
    f = Figure(1010, 500, "A residual block on a GPU, one picture of 720x1280 in half precision")
    f.text(
        24, 32, "One residual block, one picture of 720x1280: planes of 180x320, 256 channels, half precision", "title"
    )
    f.text(24, 52, "orange rim: the border of 1 pixel, written by the kernel before: no convolution checks for edges",
           "small")  # fmt: skip
    rows = (
        (84, "x", "y1", "ReLU, dropout,", "border", "13.8 us", "a"),
        (304, "a", "y2", "+ residual x,", "border", "20.7 us", "x'"),
    )
    for top, source, raw, does, then, floor, result in rows:
        f.tensor(32, top, [source, "182x322x256", "30.0 MB"], border=True)
        f.path(f"M174 {top + 37}H204")
        f.kernel(206, top, ["conv_stats", "3x3, 256 to 256", "68 GFLOP, 86.0 us"])
        f.path(f"M346 {top + 37}H376")
        f.tensor(380, top, [raw, "pre-norm output", "29.5 MB"])
        f.path(f"M514 {top + 37}H806")
        f.path(f"M275 {top + 76}V{top + 137}H374")
        f.tensor(378, top + 108, ["mean and M2", "of 453 tiles", "0.93 MB, fp32"], h=62)
        f.path(f"M512 {top + 139}H554")
        f.kernel(556, top + 112, ["merge_stats", "in a fixed order"], w=120, h=54)
        f.path(f"M678 {top + 139}H710")
        f.tensor(714, top + 112, ["mean, 1 / std", "[2, 256], 2 KB"], w=104, h=54)
        f.path(f"M820 {top + 139}H878V{top + 91}")
        f.kernel(808, top - 14, ["norm_act", "normalise,", does, then, floor], h=102)
        f.text(976, top + 41, result, "bold", "middle")
        f.path(f"M948 {top + 37}H964")
    f.path("M976 130V280H98V292")
    f.path("M22 120H14V268H890V287", "one headed")
    f.text(130, 262, "the residual x, 29.5 MB", "small")
    f.text(24, 492, "Times are floors, not measurements: arithmetic at 790 TFLOP/s, bytes at 4.3 TB/s (H200). The "
           "block's sum is 206.5 us; two convolutions are 83 % of it.", "small")  # fmt: skip
    return f


def pitch() -> Figure:
    h, w = 3, 4
    pitch, cell = w + 2, 34
    f = Figure(1050, 670, "A 3x3 convolution as nine shifted matrix products")
    f.text(24, 32, "A 3x3 convolution as nine products of one matrix, shifted", "title")
    f.text(24, 52, "a picture of 3x4 with its border: pitch P = 4 + 2 = 6. A cell is a pixel, that is a row of C "
           "channels of the matrix X.", "small")  # fmt: skip
    left, top = 24, 76
    target = 7
    for row in range(h + 2):
        for column in range(pitch):
            inner = 0 < row <= h and 0 < column <= w
            x, y = left + column * cell, top + row * cell
            f.rect(x, y, cell, cell, "cell" if inner else "rim")
            f.text(x + cell / 2, y + 21, str(row * pitch + column), "mono", "middle")
    x, y = left + target % pitch * cell, top + target // pitch * cell
    f.rect(x, y, 3 * cell, 3 * cell, "one")
    for i, line in enumerate(
        (
            f"Output row m = {target} needs the nine pixels in the",
            "orange square: X[m + 6 i + j] for i, j = 0, 1, 2.",
            "",
            "The distance 6 i + j is the same for every m. So",
            "",
            "    Y[m] = sum over i, j of  X[m + P i + j]  W[i, j]",
            "",
            "is nine matrix products, and each reads one",
            "contiguous block of rows: a plain 2-D box for TMA,",
            "no index arithmetic, no masks.",
            "",
            "Output rows with m mod P >= 4 (grey) mix the end of",
            "one line with the start of the next. They are",
            "computed, but neither stored nor counted in the",
            "statistics: their positions are Y's border.",
            "",
            "At 720x1280 the blocks have P = 322, and 0.6 % of",
            "the rows are such waste.",
        )
    ):
        f.text(left, top + 5 * cell + 34 + 18 * i, line, "mono" if "sum" in line else "")
    column, size, start = 396, 17, 92
    f.text(column + 20, 80, "X", "bold", "middle")
    for row in range((h + 2) * pitch):
        inner = 0 < row // pitch <= h and 0 < row % pitch <= w
        f.rect(column, start + row * size, 40, size, "cell" if inner else "rim")
        f.text(column + 20, start + row * size + 13, str(row), "small", "middle")
    for tap in range(9):
        i, j = divmod(tap, 3)
        shift, x = i * pitch + j, column + 62 + tap * 44
        f.text(x + 15, 80, f"W{i}{j}", "bold", "middle")
        f.rect(x, start + shift * size, 30, h * pitch * size, "tensor", 3)
        f.rect(x, start + (shift + target) * size, 30, size, "fill-one")
        f.text(x + 15, start + shift * size + 14, f"+{shift}", "small", "middle")
    out = column + 62 + 9 * 44 + 26
    f.text(out - 13, start + 6 * size, "=", "title", "middle")
    f.text(out + 24, 80, "Y", "bold", "middle")
    for row in range(h * pitch):
        f.rect(out + 4, start + row * size, 40, size, "waste" if row % pitch >= w else "cell")
        if row == target:
            f.rect(out + 4, start + row * size, 40, size, "one")
        f.text(out + 24, start + row * size + 13, str(row), "small", "middle")
    f.text(out + 4, start + 20 * size, "Rows of X past 29 are", "small")
    f.text(out + 4, start + 21 * size, "the next picture's;", "small")
    f.text(out + 4, start + 22 * size, "only waste reads them", "small")
    f.text(column, start + 32 * size + 24, "Each bar is the block of X that one tap multiplies; in orange what row "
           f"{target} reads of it.", "small")  # fmt: skip
    return f


def penalty() -> Figure:
    f = Figure(1010, 560, "The gradient penalty's weight gradients in four passes")
    f.text(
        24, 32, "The gradient penalty P = weight * mean((|g| - 1)^2), g = grad D(x), without double backward", "title"
    )
    f.text(24, 52, "The gradient of P by the weights is that of <u, g> with u = dP/dg held fixed: the derivative of D "
           "along u. Four passes compute it.", "small")  # fmt: skip
    convs = (330, 550, 770)
    labels = ("conv 1", "conv 2", "conv 3")
    for x, label in zip(convs, labels, strict=True):
        f.rect(x - 44, 76, 88, 372, "line", 8)
        f.text(x, 96, label, "bold", "middle")
    for x, label in ((440, "LeakyReLU"), (660, "norm + LeakyReLU")):
        f.text(x, 96, label, "small", "middle")
    passes = (
        (128, "1  forward", "the picture x", "x", True, "fill-two"),
        (208, "2  backward", "signal, and g at the end", "λ", False, "fill-one"),
        (308, "3  forward", "tangent, from u", "t", True, "fill-one"),
        (388, "4  backward", "adjoint of x", "μ", False, "fill-two"),
    )
    for y, name, what, letter, forward, colour in passes:
        f.text(24, y + 2, name, "bold")
        f.text(24, y + 20, what, "small")
        start, end = (206, 880) if forward else (880, 206)
        if letter == "μ":
            start, end = 860, 378
        if letter == "λ":
            end = 214
        if letter == "t":
            end = 742
        f.path(f"M{start} {y + 8}H{end}")
        for i, x in enumerate(convs):
            if letter == "μ" and i == 2:
                continue
            at = x - 28 if letter in "xt" else x + 28
            f.parts.append(f'<circle cx="{at}" cy="{y + 8}" r="13" class="{colour}"/>')
            f.text(at, y + 13, f"{letter}{'₁₂₃'[i]}", "on", "middle")
    f.text(892, 141, "scores D(x)", "small")
    f.text(892, 221, "ones", "small")
    f.text(866, 401, "0", "small")
    f.text(660, 418, "+ the norm's second", "small", "middle")
    f.text(660, 433, "derivative, of λ and t", "small", "middle")
    f.text(190, 141, "x", "bold")
    f.text(190, 221, "g", "bold")
    f.text(190, 321, "u", "bold")
    f.path("M194 230V302")
    f.text(204, 270, "u = dP/dg", "small")
    for i, x in enumerate(convs):
        f.path(f"M{x + 28} 230L{x - 28} 302", "one")
        if i < 2:
            f.path(f"M{x - 28} 150C{x - 70} 220 {x - 60} 340 {x + 15} 394", "two faint")
    f.text(24, 484, "What pairs with what, one convolution gradient a layer:", "bold")
    f.text(24, 508, "dP/dW  =  grad_W(output λ, input t)  +  grad_W(output μ, input x)", "mono")
    f.text(520, 508, "(λ, t) orange, (μ, x) green; the last layer is linear in x, so it has (λ, t) alone", "small")
    f.text(24, 536, "Work: passes 1 to 4 cost a forward pass each, the two weight gradients one each: six. λ at a "
           "convolution's output is also the adjoint of t there.", "small")  # fmt: skip
    return f


def main() -> None:
    here = Path(__file__).parent
    for figure in (residual_block, pitch, penalty):
        figure().save(here / f"{figure.__name__.replace('_', '-')}.svg")


if __name__ == "__main__":
    main()
