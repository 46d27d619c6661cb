"""`flashdiffusion demo`."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from flashdiffusion.cli.options import Json, ModelOptions, Out, Seed
from flashdiffusion.cli.tables import print_records

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiffusion.physics import BatchedPhysics
    from flashdiffusion.pipeline import FlashPipeline, Restoration
    from flashdiffusion.record import Record

STRENGTHS = (0.5, 1.5, 3.0)  # of the portrait's blur, std in pixels: mild, middling, heavy
NOISE_STD = 0.05
PHOTOGRAPH_STD, PHOTOGRAPH_NOISE, TILE = 1.5, 0.02, 128
TICKS = (0.02, 0.05, 0.1, 0.2)  # of the scale of its map


def command(model: ModelOptions, out: Out = Path("demo"), as_json: Json = False, seed: Seed = 0) -> None:
    """Degrade a portrait at three strengths, and a photograph, and restore them: the whole system in one command."""
    from flashdiffusion.data import ensure_directory, write_json
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.records import report
    from flashdiffusion.methods import DEFAULT_METHOD
    from flashdiffusion.model import EMBEDDED_PREFIX, PHOTOGRAPHS

    folder, records = ensure_directory(out), []
    with locked(folder / "results.json"):
        for restore, name, own in (
            (_portrait, "results.json", model),
            (_photograph, "photograph.json", replace(model, model=EMBEDDED_PREFIX + PHOTOGRAPHS)),
        ):
            found = restore(own.choice().open(), folder, seed)
            about = own.about() | {"method": DEFAULT_METHOD, "seed": seed}
            write_json(folder / name, report(own.choice().torch_device, about, found))
            records += found
    title = f"{DEFAULT_METHOD}: the blurrier the portrait, the higher its severity; a photograph of any size, in tiles"
    print_records(title, records, as_json)
    if not as_json:
        print(f"images: {folder}/  overviews: {folder / 'overview.png'}, {folder / 'photograph.png'}")
        print("next: flashdiffusion restore YOUR.png --physics gaussian-blur:std=2 --noise-std auto --out restored")


def _portrait(pipeline: "FlashPipeline", folder: Path, seed: int) -> "list[Record]":
    import torch

    from flashdiffusion.data import load_image, save_image
    from flashdiffusion.methods import DEFAULT_METHOD
    from flashdiffusion.physics import GaussianBlur
    from flashdiffusion.seeds import image_generator

    with as_file(files("flashdiffusion") / "assets" / "portrait.png") as path:
        clean = load_image(path, pipeline.sample_size or 128)
    names = [f"blur-{std:g}" for std in STRENGTHS]
    physics = GaussianBlur(STRENGTHS, NOISE_STD)
    parts = [physics.take(torch.tensor([i])) for i in range(len(names))]
    y = torch.cat([p(clean[None], image_generator(seed, n)) for p, n in zip(parts, names, strict=True)])
    estimate = pipeline(y, physics, start="estimate", solver="prior", ids=names, seed=seed).images
    result = pipeline(y, physics, method=DEFAULT_METHOD, ids=names, seed=seed, progress=True)
    records = _records(result, names, physics, clean.expand_as(y), y)
    save_image(clean, folder / "clean.png")
    for i, name in enumerate(names):
        save_image(y[i], folder / f"{name}-measured.png")
        save_image(result.images[i], folder / f"{name}-restored.png")
    _overview(folder / "overview.png", records, y, estimate, result.images, clean.expand_as(y))
    return records


def _photograph(pipeline: "FlashPipeline", folder: Path, seed: int) -> "list[Record]":
    from flashdiffusion.data import load_image, save_image
    from flashdiffusion.methods import DEFAULT_METHOD
    from flashdiffusion.physics import GaussianBlur
    from flashdiffusion.seeds import image_generator

    name = "photograph"
    with as_file(files("flashdiffusion") / "assets" / "photograph.jpg") as path:
        clean = load_image(path)[None]
    physics = GaussianBlur(PHOTOGRAPH_STD, PHOTOGRAPH_NOISE)
    y = physics(clean, image_generator(seed, name))
    result = pipeline(y, physics, method=DEFAULT_METHOD, ids=[name], seed=seed, tile=TILE, progress=True)
    save_image(y[0], folder / f"{name}-measured.png")
    save_image(result.images[0], folder / f"{name}-restored.png")
    records = _records(result, [name], physics, clean, y)
    _maps(folder / f"{name}.png", records[0], result, y)
    return records


def _records(
    result: "Restoration", names: list[str], physics: "BatchedPhysics", clean: "Tensor", y: "Tensor"
) -> "list[Record]":
    from flashdiffusion.jobs.records import compare
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.record import Record

    metrics, described = Metrics(), physics.describe()
    tiles = [None if one is None else one.plain() for one in result.tiles or [None] * len(names)]
    known = [result.row(i) | compare(metrics, result.images[i], clean[i], y[i]) for i in range(len(names))]
    return [Record(name, described[i], tiles=tiles[i], **known[i]) for i, name in enumerate(names)]


def _overview(path: Path, records: "list[Record]", *columns: "Tensor") -> None:
    """One figure: a row per strength; measured, decoded estimate, restored, true, each (B, 3, H, W)."""
    from matplotlib.figure import Figure

    from flashdiffusion.data import atomic_path
    from flashdiffusion.data.images import to_pil
    from flashdiffusion.metrics import psnr

    titles = ("measured", "severity encoder's estimate", "restored", "true image")
    figure = Figure(figsize=(2.6 * len(columns), 2.75 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), len(columns), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    estimated = psnr(columns[1], columns[-1]).tolist()
    for row, one in enumerate(records):
        before, after = f"{one.measurement_psnr:.1f} dB", f"{one.metrics['psnr']:.1f} dB"
        guess = f"severity {one.severity:.3f}, {estimated[row]:.1f} dB"
        captions = (f"{one.id}: {before}", guess, f"{one.nfe} steps, {after}", "")
        for axis, images, caption in zip(axes[row], columns, captions, strict=True):
            axis.imshow(to_pil(images[row]), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(caption, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _maps(path: Path, record: "Record", result: "Restoration", y: "Tensor") -> None:
    """One figure of a photograph: measured, restored, its severity map, and the steps of its tiles."""
    from matplotlib.figure import Figure

    from flashdiffusion.data import atomic_path
    from flashdiffusion.data.images import to_pil
    from flashdiffusion.severity.picture import LEAST

    height, width = y.shape[2:]
    figure = Figure(figsize=(10, 10 * height / width + 0.6), layout="constrained")
    (measured, restored), (map_axis, steps_axis) = figure.subplots(2, 2)
    measured.imshow(to_pil(y[0]))
    measured.set_title(f"measured: {record.measurement_psnr:.1f} dB", fontsize=10)
    restored.imshow(to_pil(result.images[0]))
    restored.set_title(f"restored: {record.metrics['psnr']:.1f} dB, {record.nfe:.1f} steps", fontsize=10)
    assert result.severity_maps is not None
    std, whole = result.severity_maps[0].sqrt(), (0, width, height, 0)
    shown = map_axis.imshow(std.numpy(), extent=whole, norm="log", vmin=LEAST, vmax=max(0.2, float(std.max())))
    map_axis.set_title("the error that the severity encoder expects (std)", fontsize=10)
    bar = figure.colorbar(shown, ax=map_axis, location="bottom", shrink=0.8, ticks=TICKS, format="%g")
    bar.minorticks_off()
    tiles = result.tiles[0]
    assert tiles is not None
    steps_axis.imshow(to_pil(y[0]), alpha=0.5)
    for row, (top, bottom) in enumerate(tiles.rows):
        for column, (left, right) in enumerate(tiles.columns):
            place = ((left + right) / 2, (top + bottom) / 2)
            steps_axis.annotate(str(int(tiles.nfe[row, column])), place, ha="center", va="center", fontsize=12)
    steps_axis.set_title("steps of each tile", fontsize=10)
    for axis in (measured, restored, map_axis, steps_axis):
        axis.set(xticks=[], yticks=[])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
