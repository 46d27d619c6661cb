"""`flashdiffusion restore`."""

import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.command import with_options
from flashdiffusion.cli.common import check_used, method_of, print_records
from flashdiffusion.cli.delivery import Delivery, Engine
from flashdiffusion.cli.inputs import expand, keep_inputs, names_of, note
from flashdiffusion.cli.options import Json, MethodSettings, ModelOptions, NoiseStd, Out, RunOptions
from flashdiffusion.cli.references import references

if TYPE_CHECKING:
    from flashdiffusion.jobs import Item, RestoreJob
    from flashdiffusion.jobs.records import Record


@dataclass(frozen=True)
class TruthOptions:
    """What results are compared with."""

    reference: Annotated[Path | None, typer.Option(help="Folder of the true images, by name: adds PSNR and SSIM.")] = (
        None
    )
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors); with --reference.")] = None


@dataclass(frozen=True)
class DamageOptions:
    """What damaged the images."""

    physics: Annotated[
        str | None,
        typer.Option(
            help="What damaged the images: gaussian-blur:std=2, random-inpainting:mask=FILE (white: kept), ..."
        ),
    ] = None
    noise_std: NoiseStd = 0.05


@with_options
def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Measurement files, images, or folders of them."),
    ],
    out: Out,
    damage: DamageOptions,
    truth: TruthOptions,
    choice: ModelOptions,
    run: RunOptions,
    settings: MethodSettings,
    method: Annotated[
        str, typer.Option(help='"flash(latent-dps)", "flash(psld)", resample, ae, swinir, ...')
    ] = "flash(latent-dps)",
    fit: Annotated[
        bool, typer.Option("--fit", help="Crop and resize images so that they are restored at the model's size.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore images: writes NAME.png for each, and results.json with one record per image."""
    given = settings.given
    physics, noise_std = astuple(damage)
    reference, lpips = astuple(truth)
    model, device, precision, regressor = astuple(choice)
    seed, resume, max_in_flight, engine, workers, address, compile = astuple(run)
    from flashdiffusion.data import ensure_directory, write_bytes
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.errors import InputError
    from flashdiffusion.jobs import Item, ModelChoice, RestoreJob
    from flashdiffusion.jobs.inputs import named_files
    from flashdiffusion.jobs.inputs import place as place_of
    from flashdiffusion.jobs.journal import Journal
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.parse import drawn_by, parse_physics
    from flashdiffusion.jobs.records import report
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.seeds import image_generator

    place = Engine(engine, workers, address)
    check_used(given, method, *method_of(method))
    probe = parse_physics(physics, (1, 1), image_generator(seed, ""), noise_std) if physics is not None else None
    if reference is not None and not reference.is_dir():
        raise InputError(f"reference {reference} is no folder; expected the folder of the true images")
    if reference is not None and reference.resolve() == out.resolve():
        raise InputError(f"out is {out}, the folder of the true images; choose another --out")
    if lpips is not None and reference is None:
        raise InputError("lpips compares with the true image: give its folder as --reference too")
    files = expand(inputs)
    images = [path for path in files if path.suffix != SUFFIX]
    if images and physics is not None and (unknown := drawn_by(physics)):
        raise InputError(f"to restore an image one must know {unknown}")
    if images and probe is not None and not probe.gives_images:
        raise InputError(
            f"{images[0]} is an image, which {physics} does not give: it needs a measurement file that "
            "`flashdiffusion degrade` wrote"
        )
    items = [Item(i, name, str(path)) for i, (path, name) in enumerate(zip(files, names_of(files), strict=True))]
    keep_inputs(files, (out / f"{item.name}.png" for item in items))
    folder = ensure_directory(out)
    weights = {"lpips": str(lpips)} if lpips else {}
    nets = Metrics(weights).nets
    named = {item.name: Path(item.path) for item in items}
    true_images = references(reference, inputs, named) if reference is not None else {}
    job = RestoreJob(
        ModelChoice(model, device, precision, regressor, compile),
        method,
        physics,
        noise_std,
        seed,
        given,
        fit,
        {name: str(path) for name, path in true_images.items()},
        weights,
        max_in_flight,
    )
    about: dict[str, Any] = {
        "model": place_of(model) or "embedded",
        "precision": precision,
        "method": method,
        "seed": seed,
        "given": given,
        "physics": physics,
        "physics_files": named_files(physics),
        "noise_std": noise_std,
        "fit": fit,
        "regressor": place_of(regressor),
        "reference": place_of(reference),
        "lpips_net": None,
    } | nets
    with locked(folder / "results.json"):
        journal = Journal(folder / "results.json", about, resume)
        asked = {item.name: item for item in items}
        journal.done = {name: row for name, row in journal.done.items() if _kept(row, folder, job, asked.get(name))}
        delivery = Delivery(journal, items)
        missing = [item for item in items if item.name not in journal.done]
        delivery.take(
            place.run(job, missing), lambda done: write_bytes(folder / f"{done.name}.png", done.pngs["restored"])
        )

        def results(records: "list[Record]", failed: Mapping[str, str]) -> dict[str, Any]:
            kinds = {record.degradation["physics"] for record in records if record.degradation}
            used = {"settings": {kind: job.used_settings(kind) for kind in sorted(kinds)}}
            return report(sys.argv[1:], job.model.torch_device, about | used, records, failed)

        records = delivery.finish(results)
        # Those of a blur-kernel-space network do not hold its weights.
        needless = physics is not None and not physics.startswith("blur-kernel-space")
        if records and needless and not images:
            note("measurement files know their physics; --physics is for images")
        if records:
            print_records(f"{method}: images and results.json in {folder}", records, as_json)
        raise typer.Exit(delivery.failures.finish(len(items)))


def _kept(row: dict[str, Any], folder: Path, job: "RestoreJob", item: "Item | None") -> bool:
    """Whether an earlier run's image is still there, and made of what its name stands for now."""
    image = folder / f"{row['id']}.png"
    if not (image.exists() and image.stat().st_size > 0):
        return False
    try:
        return item is None or row.get("digest") == job.digest_of(item)
    except OSError:
        return False
