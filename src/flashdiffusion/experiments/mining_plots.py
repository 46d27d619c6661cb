"""What mining found, as pictures: the hardest and the easiest images, and effects and severities of all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flashdiffusion.data import ImageDataset, atomic_path
from flashdiffusion.data.images import to_pil
from flashdiffusion.experiments.mining import Conditions, Mining

COLUMNS = 8
SHOWN = 16  # of the hardest images on the sheet, and of the easiest
COLOURED = 5
_SIDES = (128, 192)  # least and largest side of an image on the sheet: names need room
_GAP, _LINE, _FONT, _TITLE = 8, 17, 13, 16  # pixels
_SCORES = {
    "image": "image effect on the severity (× 1: the mean image)",
    "total": "severity as the task draws the degradation",
    "true": "image effect on the true severity (× 1: the mean image)",
}


@dataclass(frozen=True)
class _Tile:
    """An image on the sheet: (3, H, W) in [0, 1] clean and measured, and what is written above it."""

    clean: Tensor
    measured: Tensor
    heading: str
    name: str


def draw_sheet(
    mining: Mining, order: Sequence[int], by: str, data: ImageDataset, conditions: Conditions, path: Path
) -> None:
    """Draw the first and the last images in this order, clean above measured, as a PNG.

    Measured as the task draws it if they are ranked by that, otherwise all alike, at the middle level.

    Args:
        order: rows of `mining`, ranked by `by`.
    """
    hardest = min(SHOWN, (len(order) + 1) // 2)
    parts = {"hardest": range(hardest), "easiest": range(max(hardest, len(order) - SHOWN), len(order))}
    middle = len(conditions.values) // 2
    level = "as drawn" if by == "total" else f"at {conditions.varied} {conditions.values[middle]:g}"
    rows: list[str | list[_Tile]] = []
    for name, ranks in parts.items():
        if ranks:
            rows += [
                f"{name}: {_SCORES[by]}; below: measured {level}",
                *_tiles(mining, order, ranks, by, data, conditions),
            ]
    _draw(rows, min(max(data.side, _SIDES[0]), _SIDES[1]), path)


def _tiles(
    mining: Mining, order: Sequence[int], ranks: Sequence[int], by: str, data: ImageDataset, conditions: Conditions
) -> Iterator[list[_Tile]]:
    """The images of these ranks, in rows of `COLUMNS`."""
    scores, middle = mining.scores(by).tolist(), len(conditions.values) // 2
    at = {mining.places[order[rank]]: rank for rank in ranks}
    for places, clean, _ in data.batches(at, COLUMNS):
        if not places:
            continue
        ids = [data.ids[place] for place in places]
        measured = conditions.drawn(clean, ids) if by == "total" else conditions.at(middle, clean)
        shown = measured.physics.image(measured.y)
        tiles = []
        for n, place in enumerate(places):
            score = scores[order[at[place]]]
            heading = f"{at[place] + 1}.  {score:.3g}" if by == "total" else f"{at[place] + 1}.  × {score:.2f}"
            tiles.append(_Tile(clean[n], shown[n], heading, ids[n]))
        yield tiles


def _draw(rows: Sequence[str | Sequence[_Tile]], side: int, path: Path) -> None:
    """Draw titles, and tiles of this side in pixels, row by row."""
    heights = [_TITLE + 2 * _GAP if isinstance(row, str) else 2 * (_LINE + side) + _GAP for row in rows]
    width = COLUMNS * (side + _GAP) + _GAP
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        if isinstance(row, str):
            draw.text((_GAP, top + _GAP), _shortened(row, width - 2 * _GAP, _TITLE), "black", _font(_TITLE))
        else:
            for column, tile in enumerate(row):
                _draw_tile(sheet, draw, tile, (_GAP + column * (side + _GAP), top), side)
        top += height
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: _Tile, at: tuple[int, int], side: int) -> None:
    left, top = at
    draw.text((left, top), tile.heading, "black", _font(_FONT))
    draw.text((left, top + _LINE), _shortened(tile.name, side, _FONT), "dimgrey", _font(_FONT))
    for place, image in enumerate((tile.clean, tile.measured)):
        picture = to_pil(image).convert("RGB")
        filter = Image.Resampling.LANCZOS if picture.width > side else Image.Resampling.NEAREST
        sheet.paste(picture.resize((side, side), filter), (left, top + 2 * _LINE + place * side))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)  # matplotlib brings it; Pillow's own lacks most letters


def _shortened(text: str, width: int, size: int) -> str:
    """Text in one line of at most so many pixels, cut at its front: names of files differ at their ends."""
    text = " ".join(text.encode(errors="replace").decode().split())
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


def plot_effects(mining: Mining, order: Sequence[int], conditions: Conditions, path: Path) -> None:
    """Draw a histogram of the image effects, and the severity of all images over the level, as a PNG.

    Args:
        order: rows of `mining`, those first that are coloured.
    """
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    values = conditions.values
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    effects = mining.predicted.images
    bins = 10 ** np.histogram_bin_edges(effects.log10().numpy(), "rice")
    left.hist(effects.tolist(), bins=bins, color="lightgrey", edgecolor="grey")
    left.axvline(1, color="black", linewidth=1)
    left.set(xscale="log", xlabel="image effect (ratio of severity)", ylabel="images")
    lines = [list(zip(values, row, strict=True)) for row in mining.severities.tolist()]
    alpha = min(1.0, max(0.03, 20 / len(lines)))
    right.add_collection(LineCollection(lines, colors="grey", linewidths=0.7, alpha=alpha))
    mean = mining.predicted.mean * mining.predicted.levels
    right.plot(values, mean.tolist(), color="black", linewidth=2, label="mean of all")
    for rank, row in enumerate(order[:COLOURED], start=1):
        colour, effect = colormaps["tab10"](rank), float(effects[row])
        left.axvline(effect, color=colour, linewidth=1.5)
        label = f"rank {rank}: image effect × {effect:.2f}"
        right.plot(values, mining.severities[row].tolist(), color=colour, marker="o", markersize=3, label=label)
    right.set(yscale="log", xlabel=conditions.varied.replace("_", " "), ylabel="severity")
    right.autoscale_view()
    right.legend(fontsize=8)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, ticks in ((left.xaxis, (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)), (right.yaxis, (1, 2, 3, 5, 7))):
        axis.set_major_locator(LogLocator(subs=ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:.3g}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
