"""`flashdiffusion restore`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.common import (
    check_used,
    fitted_size,
    given_settings,
    load_pipeline,
    method_of,
    print_records,
)
from flashdiffusion.cli.inputs import (
    Failures,
    Measured,
    expand,
    keep_inputs,
    names_of,
    read_image,
    read_measured,
    references,
)
from flashdiffusion.cli.options import (
    Capacity,
    Correction,
    Delta,
    Device,
    Eta,
    Gamma,
    Json,
    Mixing,
    Model,
    NoiseStd,
    Omega,
    Out,
    Precision,
    Proximal,
    Regressor,
    Seed,
    StartStep,
    Steps,
)

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiffusion.experiments import Record
    from flashdiffusion.methods import Settings
    from flashdiffusion.metrics import LPIPS
    from flashdiffusion.physics.base import BatchedPhysics
    from flashdiffusion.pipeline import Restoration

CHUNK = 64  # pictures read, restored and written at a time
FAR = 1.5  # shorter side of a picture over the model's, or under it, from where the user is told


def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Measurement files, pictures, or folders of them."),
    ],
    out: Out,
    physics: Annotated[
        str | None,
        typer.Option(
            help="What damaged the pictures: gaussian-blur:std=2, random-inpainting:mask=FILE (white: kept), ..."
        ),
    ] = None,
    noise_std: NoiseStd = 0.05,
    method: Annotated[
        str, typer.Option(help='"flash(latent-dps)", "flash(psld)", resample, ae, swinir, ...')
    ] = "flash(latent-dps)",
    reference: Annotated[
        Path | None, typer.Option(help="Folder of the true pictures, by name: adds PSNR and SSIM.")
    ] = None,
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors); with --reference.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Crop and resize pictures so that they are restored at the model's size.")
    ] = False,
    eta: Eta = None,
    correction: Correction = None,
    omega: Omega = None,
    gamma: Gamma = None,
    proximal: Proximal = None,
    start_step: StartStep = None,
    mixing: Mixing = None,
    steps: Steps = None,
    delta: Delta = None,
    capacity: Capacity = 16,
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
    precision: Precision = "float32",
    regressor: Regressor = None,
    seed: Seed = 0,
) -> None:
    """Restore pictures: writes NAME.png for each, and results.json with one record per picture."""
    given = given_settings(locals())
    from dataclasses import asdict, replace

    from flashdiffusion.data import ensure_directory, write_json
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.errors import InputError
    from flashdiffusion.experiments import report
    from flashdiffusion.methods import make_solver, make_start
    from flashdiffusion.metrics import LPIPS
    from flashdiffusion.physics import drawn_by, parse_physics
    from flashdiffusion.presets import preset_for
    from flashdiffusion.seeds import picture_generator

    start, solver = method_of(method)
    check_used(given, method, start, solver)
    probe = parse_physics(physics, (1, 1), picture_generator(seed, ""), noise_std) if physics is not None else None
    if reference is not None and not reference.is_dir():
        raise InputError(f"reference {reference} is no folder; expected the folder of the true pictures")
    if reference is not None and reference.resolve() == out.resolve():
        raise InputError(f"out is {out}, the folder of the true pictures; choose another --out")
    if lpips is not None and reference is None:
        raise InputError("lpips compares with the true picture: give its folder as --reference too")
    files = expand(inputs)
    pictures = [path for path in files if path.suffix != SUFFIX]
    if pictures and physics is not None and (unknown := drawn_by(physics)):
        raise InputError(f"to restore a picture one must know {unknown}")
    if pictures and probe is not None and not probe.gives_pictures:
        raise InputError(
            f"{pictures[0]} is a picture, which {physics} does not give: it needs a measurement file that "
            "`flashdiffusion degrade` wrote"
        )
    named = list(zip(files, names_of(files), strict=True))
    keep_inputs(files, (out / f"{name}.png" for _, name in named))
    folder = ensure_directory(out)
    network = LPIPS.from_file(lpips) if lpips else None
    truth = references(reference, [name for _, name in named]) if reference is not None else {}
    pipeline = load_pipeline(model, device, precision, regressor)
    side = fitted_size(pipeline, fit)
    size = _measured_size(probe, side) if pictures and probe is not None and side is not None else None

    def settings_for(task: "str | BatchedPhysics") -> "Settings":
        return replace(preset_for(task, start, solver, steps), **given)

    # Options that no picture can use fail here, once.
    make_solver(solver, pipeline.prior, settings_for("gaussian-blur"))
    make_start(start, pipeline.severity_encoder, settings_for("gaussian-blur"), pipeline.regressor)

    def physics_of(name: str, shape: tuple[int, int]) -> "BatchedPhysics":
        if physics is None:
            raise InputError(f"{name} is a picture: say what damaged it with --physics, e.g. gaussian-blur:std=2")
        return parse_physics(physics, shape, picture_generator(seed, name), noise_std)

    failures = Failures()
    records: list[Record] = []
    noted = fit or pipeline.sample_size is None
    about: dict[str, Any] = {
        "model": model or "embedded",
        "precision": precision,
        "method": method,
        "seed": seed,
        "settings": {},
    }
    for first in range(0, len(named), CHUNK):
        good, failed = read_measured(named[first : first + CHUNK], physics_of, pipeline.check, size)
        failures.reasons += failed.reasons
        if not noted and pipeline.sample_size is not None:
            noted = _note_size([one for one in good if one.path.suffix != SUFFIX], pipeline.sample_size)
        for group in _groups(good):
            y, operator = _batch(group)
            settings = settings_for(operator)
            try:
                result = pipeline(
                    y,
                    operator,
                    solver=solver,
                    start=start,
                    seed=seed,
                    ids=[one.name for one in group],
                    settings=settings,
                    capacity=capacity,
                    progress=True,
                )
            except InputError as error:
                failures.reasons += [(one.name, str(error)) for one in group]
                continue
            about["settings"] |= {operator.name: asdict(settings)}
            records += _write(group, result, folder, truth, network, failures)
            write_json(folder / "results.json", report(sys.argv[1:], pipeline.prior.device, about, records))
    # Those of a blur-kernel-space network do not hold its weights.
    needless = physics is not None and not physics.startswith("blur-kernel-space")
    if records and needless and all(path.suffix == SUFFIX for path in files):
        print("flashdiffusion: note: measurement files know their physics; --physics is for pictures", file=sys.stderr)
    if records:
        print_records(f"{method}: pictures and results.json in {folder}", records, as_json)
    raise typer.Exit(failures.finish(len(files)))


def _note_size(pictures: list[Measured], side: int) -> bool:
    """Say so on stderr if one of the pictures is far from the size that the model was trained on."""
    for one in pictures:
        height, width = one.picture.shape[2:]
        if not 1 / FAR <= min(height, width) / side <= FAR:
            print(
                f"flashdiffusion: note: {one.path} is restored at {width}x{height} and the model was trained on "
                f"pictures of {side}x{side}; --fit restores at that size",
                file=sys.stderr,
            )
            return True
    return False


def _measured_size(physics: "BatchedPhysics", side: int) -> tuple[int, int]:
    """Height and width of the measurement of a square picture of that side.

    Raises:
        InputError: such a picture cannot be measured.
    """
    import torch

    height, width = physics.A(torch.zeros(1, 3, side, side)).shape[2:]
    return height, width


def _groups(inputs: list[Measured]) -> list[list[Measured]]:
    """Inputs that can share a batch: same kind of operator, same sizes of measurement and picture."""
    by_kind: dict[object, list[Measured]] = {}
    for one in inputs:
        assert one.physics is not None
        sizes = (one.y.shape, one.physics.picture(one.y).shape)
        by_kind.setdefault((type(one.physics), *sizes), []).append(one)
    return list(by_kind.values())


def _batch(group: list[Measured]) -> "tuple[Tensor, BatchedPhysics]":
    import torch

    from flashdiffusion.physics.tasks import concatenate

    physics = concatenate([one.physics for one in group if one.physics is not None])
    return torch.cat([one.y for one in group]), physics


def _write(
    group: list[Measured],
    result: "Restoration",
    folder: Path,
    truth: dict[str, Path],
    network: "LPIPS | None",
    failures: Failures,
) -> "list[Record]":
    from flashdiffusion.data import save_picture
    from flashdiffusion.errors import FlashDiffusionError
    from flashdiffusion.experiments import Record
    from flashdiffusion.metrics import psnr, ssim

    records = []
    for i, one in enumerate(group):
        image = result.images[i : i + 1]
        if bool(image.isnan().any()):
            failures.reasons.append((one.name, "its restoration diverged; try a smaller eta"))
            continue
        save_picture(image[0], folder / f"{one.name}.png")
        quality: dict[str, Any] = {}
        if truth:
            try:
                x = read_image(truth[one.name], (image.shape[2], image.shape[3]))
                quality = {"psnr": float(psnr(image, x)), "ssim": float(ssim(image, x))}
                if network is not None:
                    quality["lpips"] = float(network(image, x))
            except FlashDiffusionError as error:
                failures.reasons.append((one.name, str(error)))
        degradation = one.physics.describe()[0] if one.physics else None
        records.append(Record(one.name, degradation, **quality, **result.row(i)))
    return records
