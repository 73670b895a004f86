"""Images of engine/README.md, as SVG: the networks, drawn from their layers, and a training curve.

`python -m engine.evaluation.readme_images` draws them again. `... LOG.jsonl` first takes a new curve from the log
of `denoise train paper`.
"""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import NamedTuple

from engine.layers import (
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    Module,
    PixelResidual,
    ReLU,
    ResBlock,
    Sigmoid,
    Skip,
    SpaceToDepth,
    parameters,
)
from engine.models.networks import NetworkConfig, build_network, parameter_count
from engine.models.receptive_field import reach
from engine.system.atomic_file import write_atomically
from engine.training.log import read_log
from engine.training.recipe import read_recipe

FOLDER = Path(__file__).parents[1] / "images"
CURVE = FOLDER / "curve-paper.csv"
# Of the noisy images that the curve's training holds out: PSNR in dB.
NOISY_PSNR = 18.93
# Each image of a network: the recipe that it is drawn from, and its title.
NETWORKS = {
    "network-paper": ("paper", "The report's network: paper"),
    "network-photo": ("photo", "Ours, size M: photo"),
}
# Colours in light and in dark. The ground is drawn too: a page may be dark where the system is light.
STYLE = """
text{font:13px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:16px;font-weight:600}.note{fill:var(--faint)}.right{text-anchor:end}.middle{text-anchor:middle}
.ground{fill:var(--ground);stroke:var(--edge)}
.box{stroke:var(--edge)}.image{fill:var(--ground)}.conv{fill:var(--conv)}.block{fill:var(--block)}
.shuffle{fill:var(--shuffle)}
.flow{fill:none;stroke:var(--faint)}.skip{fill:none;stroke:var(--skip);stroke-width:2}.sum{fill:var(--ground)}
.grid{stroke:var(--edge)}.noisy{stroke:var(--ink);stroke-dasharray:6 4}
.halo{paint-order:stroke;stroke:var(--ground);stroke-width:5px}
.curve{fill:none;stroke:var(--skip);stroke-width:2}.dot{fill:var(--skip)}
svg{--ground:#fff;--ink:#1f2328;--faint:#59636e;--edge:#d1d9e0;--conv:#d5f0dc;--block:#fdecc8;--shuffle:#e6e9ed;--skip:#0969da}
@media (prefers-color-scheme:dark){
svg{--ground:#0d1117;--ink:#f0f6fc;--faint:#9198a1;--edge:#3d444d;--conv:#12402b;--block:#4b3710;--shuffle:#262c36;--skip:#4493f8}
}"""
# Of a network, in units of the drawing.
WIDTH = 760
TOP = 92  # above the first row
ROW = 38  # from one row to the next
BOX_HEIGHT = 26
BOX_WIDTH = 300  # at the image's size
BOX_SHRINKS = 36  # for each halving of the size
BOX_CENTRE = 250
LANE = 30  # between two skip connections
SHAPE_LEFT = 425
PARAMETERS_RIGHT = 735
# Of the curve.
CHART_HEIGHT = 340
CHART_LEFT = 60
CHART_RIGHT = 735
CHART_TOP = 70
CHART_BOTTOM = 285
MAX_TICKS = 12  # on one axis


@dataclass(frozen=True)
class Row:
    """A layer of a network. scale: side of its output / side of the image.

    adds: the row whose output is added to this one's. count: equal layers in a row. parameters: of all of them.
    """

    label: str
    kind: str
    scale: Fraction
    channels: int
    parameters: int = 0
    adds: int | None = None
    count: int = 1

    @property
    def shape(self) -> str:
        """Height × width × channels of the output."""
        part = "" if self.scale == 1 else f"/{1 / self.scale}"
        return f"H{part} × W{part} × {self.channels}"

    @property
    def text(self) -> str:
        return self.label if self.count == 1 else f"{self.count} × {self.label}"


class Point(NamedTuple):
    """A measurement during a training run. psnr: in dB."""

    step: int
    psnr: float


def rows_of(net: Module, channels: int) -> list[Row]:
    """The layers of a network in the order of the forward pass. channels: of the image."""
    rows = [Row("noisy image", "image", Fraction(1), channels)]
    _visit(net, rows)
    last = rows[-1]
    return [*rows, Row("denoised image", "image", last.scale, last.channels)]


def _visit(module: Module, rows: list[Row]) -> None:
    """Appends the rows of a module and of those inside it."""
    last = len(rows) - 1
    scale, channels = rows[-1].scale, rows[-1].channels
    count = sum(parameter.value.numel() for parameter in parameters(module))
    match module:
        case ResBlock() if rows[-1].kind == "block":
            rows[-1] = replace(rows[-1], count=rows[-1].count + 1, parameters=rows[-1].parameters + count)
        case ResBlock():
            rows.append(Row("residual block", "block", scale, channels, count))
        case Conv2d() | ConvTranspose2d():
            rows.append(Row(_name(module), "conv", scale * module.factor, module.out_channels, count))
        case SpaceToDepth():
            size = f"space to depth, {module.block} × {module.block}"
            rows.append(Row(size, "shuffle", scale / module.block, channels * module.block**2))
        case DepthToSpace():
            size = f"depth to space, {module.block} × {module.block}"
            rows.append(Row(size, "shuffle", scale * module.block, channels // module.block**2))
        case ReLU() | Sigmoid():
            rows[-1] = replace(rows[-1], label=f"{rows[-1].label}, {type(module).__name__}")
        case _ if module.layers:
            for layer in module.layers:
                _visit(layer, rows)
            if isinstance(module, Skip | PixelResidual):
                rows[-1] = replace(rows[-1], adds=last)
        case _:
            raise ValueError(f"{type(module).__name__}: no drawing is known for this layer; add one to _visit")


def _name(layer: Conv2d | ConvTranspose2d) -> str:
    geometry = layer.geometry
    kind = "conv" if isinstance(layer, Conv2d) else "transposed conv"
    stride = f", stride {geometry.stride}" if geometry.stride > 1 else ""
    return f"{kind} {geometry.kernel_size} × {geometry.kernel_size}{stride}"


def draw_network(title: str, config: NetworkConfig) -> str:
    """An SVG with a row for each layer: its output's shape, its parameters, and what is added to it."""
    net = build_network(config)
    rows = rows_of(net, channels=3)
    count = f"{parameter_count(net):,} parameters"
    about = f"{count}. An output pixel depends on the image up to {reach(net)} pixels away."
    heading = (
        f'<text class="note" x="{SHAPE_LEFT}" y="{TOP - 16}">output: height, width, channels</text>'
        f'<text class="note right" x="{PARAMETERS_RIGHT}" y="{TOP - 16}">parameters</text>'
    )
    drawn = "\n".join([heading, *_arrows(rows), *_skips(rows), *map(_box, range(len(rows)), rows)])
    return _svg(title, about, TOP + ROW * len(rows), drawn)


def _box(number: int, row: Row) -> str:
    y = _y(number)
    text = y + 4.5
    count = (
        f'<text class="right" x="{PARAMETERS_RIGHT}" y="{text}">{row.parameters:,}</text>'
        if row.parameters
        else ""
    )
    return (
        f'<rect class="box {row.kind}" x="{BOX_CENTRE - _half(row):g}" y="{y - BOX_HEIGHT / 2:g}"'
        f' width="{2 * _half(row):g}" height="{BOX_HEIGHT}" rx="5"/>'
        f'<text class="middle" x="{BOX_CENTRE}" y="{text}">{escape(row.text)}</text>'
        f'<text x="{SHAPE_LEFT}" y="{text}">{row.shape}</text>{count}'
    )


def _arrows(rows: Sequence[Row]) -> Iterator[str]:
    for number in range(len(rows) - 1):
        start, end = _y(number) + BOX_HEIGHT / 2, _y(number + 1) - BOX_HEIGHT / 2
        yield f'<path class="flow" d="M{BOX_CENTRE} {start:g}V{end:g}m-3.5 -4l3.5 4l3.5 -4"/>'


def _skips(rows: Sequence[Row]) -> Iterator[str]:
    """The outermost connection lies in the outermost lane."""
    ends = [number for number, row in enumerate(rows) if row.adds is not None]
    for lane, number in enumerate(reversed(ends), 1):
        start = rows[number].adds or 0
        x, sum_x = LANE * lane, BOX_CENTRE - _half(rows[number]) - 15
        yield (
            f'<path class="skip" d="M{BOX_CENTRE - _half(rows[start]):g} {_y(start):g}H{x}V{_y(number):g}'
            f'H{sum_x - 8:g}"/>'
            f'<circle class="skip sum" cx="{sum_x:g}" cy="{_y(number):g}" r="8"/>'
            f'<path class="skip" d="M{sum_x - 4:g} {_y(number):g}h8m-4 -4v8"/>'
        )


def _y(number: int) -> float:
    return TOP + ROW * number + BOX_HEIGHT / 2


def _half(row: Row) -> float:
    """Half of the width of a row's box: smaller where the image is smaller."""
    halvings = (1 / row.scale).numerator.bit_length() - 1
    return (BOX_WIDTH - BOX_SHRINKS * halvings) / 2


def draw_curve(title: str, about: str, points: Sequence[Point], noisy: float) -> str:
    """An SVG of PSNR against steps. noisy: the PSNR of the noisy images, a line to compare with."""
    psnrs = [noisy, *(point.psnr for point in points)]
    low, high = int(min(psnrs)), int(max(psnrs)) + 1
    end = max(point.step for point in points)

    def x(step: float) -> float:
        return CHART_LEFT + (CHART_RIGHT - CHART_LEFT) * step / end

    def y(psnr: float) -> float:
        return CHART_BOTTOM - (CHART_BOTTOM - CHART_TOP) * (psnr - low) / (high - low)

    places = [(x(point.step), y(point.psnr)) for point in points]
    drawn = [
        *(
            f'<path class="grid" d="M{CHART_LEFT} {y(psnr):.1f}H{CHART_RIGHT}"/>'
            f'<text class="note right" x="{CHART_LEFT - 8}" y="{y(psnr) + 4.5:.1f}">{psnr}</text>'
            for psnr in _ticks(low, high)
        ),
        *(
            f'<text class="note middle" x="{x(step):.1f}" y="{CHART_BOTTOM + 20}">{step:,}</text>'
            for step in _ticks(0, end)
        ),
        f'<path class="noisy" d="M{CHART_LEFT} {y(noisy):.1f}H{CHART_RIGHT}"/>'
        f'<text class="right halo" x="{CHART_RIGHT}" y="{y(noisy) + 17:.1f}">noisy images: {noisy:.2f} dB</text>',
        f'<text class="note middle" x="{(CHART_LEFT + CHART_RIGHT) // 2}" y="{CHART_BOTTOM + 40}">steps</text>',
        '<path class="curve" d="M' + "L".join(f"{left:.1f} {top:.1f}" for left, top in places) + '"/>',
        *(f'<circle class="dot" cx="{left:.1f}" cy="{top:.1f}" r="3"/>' for left, top in places),
    ]
    return _svg(title, about, CHART_HEIGHT, "\n".join(drawn))


def _ticks(first: int, last: int) -> range:
    """At most MAX_TICKS whole numbers, 1, 2 or 5 times a power of ten apart."""
    steps = (digit * 10**power for power in range(10) for digit in (1, 2, 5))
    return range(first, last + 1, next(step for step in steps if (last - first) // step < MAX_TICKS))


def _svg(title: str, about: str, height: int, drawn: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}. {escape(about)}">'
        f"<style>{STYLE}</style>\n"
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
        f'<text class="title" x="24" y="32">{escape(title)}</text>'
        f'<text class="note" x="24" y="53">{escape(about)}</text>\n{drawn}\n</svg>\n'
    )


def read_curve() -> list[Point]:
    """The curve in the folder of the images."""
    with CURVE.open(newline="") as file:
        return [Point(int(row["step"]), float(row["psnr"])) for row in csv.DictReader(file)]


def take_curve(log: Path) -> None:
    """Replaces the curve by that of a training log. Raises ValueError naming a file that is not a log."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows((line["step"], f"{line['psnr']:.3f}") for line in read_log(log) if "psnr" in line)
    write_atomically(CURVE, text.getvalue().encode())


def images() -> dict[str, str]:
    """Each image of the README, by the name of its file."""
    drawn = {
        f"{name}.svg": draw_network(title, read_recipe(recipe).network_config())
        for name, (recipe, title) in NETWORKS.items()
    }
    about = "PSNR in dB of synthetic images that were held out, against the steps of the training"
    drawn[f"{CURVE.stem}.svg"] = draw_curve("denoise train paper", about, read_curve(), NOISY_PSNR)
    return drawn


def main(args: Sequence[str]) -> None:
    """args: the log to take the curve from, if any."""
    for log in args:
        take_curve(Path(log))
    for name, text in images().items():
        write_atomically(FOLDER / name, text.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
