"""`flashdiffusion demo`."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from flashdiffusion.cli.options import Json, ModelOptions, Out, Seed
from flashdiffusion.cli.tables import print_records

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiffusion.jobs.records import Record

STRENGTHS = (0.5, 1.5, 3.0)  # blur std in pixels: mild, middling, heavy
NOISE_STD = 0.05


def command(model: ModelOptions, out: Out = Path("demo"), as_json: Json = False, seed: Seed = 0) -> None:
    """Degrade a portrait at three strengths and restore it: the whole system in one command."""
    import torch

    from flashdiffusion.data import ensure_directory, load_image, save_image, write_json
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.records import Record, compare, report
    from flashdiffusion.methods import DEFAULT_METHOD
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.physics import GaussianBlur
    from flashdiffusion.seeds import image_generator

    folder = ensure_directory(out)
    with locked(folder / "results.json"):
        pipeline = model.choice().open()
        with as_file(files("flashdiffusion") / "assets" / "portrait.png") as path:
            clean = load_image(path, pipeline.sample_size or 128)
        names = [f"blur-{std:g}" for std in STRENGTHS]
        physics = GaussianBlur(STRENGTHS, NOISE_STD)
        parts = [physics.take(torch.tensor([i])) for i in range(len(names))]
        y = torch.cat([p(clean[None], image_generator(seed, n)) for p, n in zip(parts, names, strict=True)])
        estimate = pipeline(y, physics, start="estimate", solver="prior", ids=names, seed=seed).images
        result = pipeline(y, physics, method=DEFAULT_METHOD, ids=names, seed=seed, progress=True)
        metrics = Metrics()
        records = [
            Record(name, physics.describe()[i], **result.row(i), **compare(metrics, result.images[i], clean, y[i]))
            for i, name in enumerate(names)
        ]
        save_image(clean, folder / "clean.png")
        for i, name in enumerate(names):
            save_image(y[i], folder / f"{name}-measured.png")
            save_image(result.images[i], folder / f"{name}-restored.png")
        _overview(folder / "overview.png", records, y, estimate, result.images, clean.expand_as(y))
        about = {"model": model.model or "embedded", "method": DEFAULT_METHOD, "seed": seed}
        write_json(folder / "results.json", report(pipeline.prior.device, about, records))
    print_records(f"{DEFAULT_METHOD}: the blurrier the image, the higher its severity", records, as_json)
    if not as_json:
        print(f"images: {folder}/  overview: {folder / 'overview.png'}")
        print(
            "next: flashdiffusion degrade YOUR.jpg --fit --out measured; flashdiffusion restore measured --out restored"
        )


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
