"""`flashdiffusion restore`."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.cli.delivery import Delivery
from flashdiffusion.cli.inputs import keep_inputs, named
from flashdiffusion.cli.references import references
from flashdiffusion.cli.tables import print_records
from flashdiffusion.errors import InputError, note

if TYPE_CHECKING:
    from flashdiffusion.record import Record


@dataclass(frozen=True)
class DamageOptions:
    """What damaged the images."""

    physics: options.Physics = None
    noise_std: options.NoiseStdOrAuto = None

    @property
    def std(self) -> float | None:
        """σ_y of images; None if it is to be estimated from each."""
        from flashdiffusion.jobs.parse import noise_level

        return noise_level(self.noise_std)

    @property
    def unused(self) -> str | None:
        """What to say if only measurement files are restored: which options they make no use of."""
        # Those of a blur-kernel-space network do not hold its weights.
        needed = self.physics is not None and self.physics.startswith("blur-kernel-space")
        given = {"--physics": None if needed else self.physics, "--noise-std": self.noise_std}
        names = " and ".join(name for name, value in given.items() if value is not None)
        return f"{names} not used: measurement files hold their own physics and noise" if names else None

    def check(self, files: Sequence[Path], seed: int) -> None:
        """Raise InputError if images and arrays cannot be restored for what is known of their damage."""
        from flashdiffusion.jobs.reading import check_physics

        if self.physics is not None:
            check_physics(self.physics, self.std, files, seed)

    def about(self) -> dict[str, Any]:
        """What results depend on, for their file."""
        from flashdiffusion.jobs.inputs import named_files

        return {
            "physics": self.physics,
            "noise_std": options.AUTO if self.std is None else self.std,
            "physics_files": named_files(self.physics),
        }


@dataclass(frozen=True)
class TruthOptions(options.QualityOptions):
    """What results are compared with."""

    reference: Annotated[
        Path | None,
        option("Folder of the true images, by name, or the one true image: adds PSNR, SSIM and PSNR before."),
    ] = None

    def check(self, out: Path) -> None:
        """Raise InputError if there is nothing to compare with, or it would be written over."""
        if self.reference is not None and not self.reference.exists():
            raise InputError(f"reference {self.reference} does not exist; expected the true image, or their folder")
        if self.reference is not None and self.reference.resolve() == out.resolve():
            raise InputError(f"out is {out}, the folder of the true images; choose another --out")
        if self.lpips is not None and self.reference is None:
            raise InputError("lpips compares with the true image: give its folder as --reference too")

    def about(self) -> dict[str, Any]:
        """What results depend on, for their file."""
        return {"reference": self.reference and str(self.reference)} | super().about()


@dataclass(frozen=True)
class OutputOptions:
    """Where results go."""

    out: options.Out
    maps: Annotated[
        Path | None,
        option(
            "Folder for a picture of each image's severity map: the estimate's standard deviation at each place, from "
            "0.02 (blue) to 1 latent unit (yellow), logarithmic. In its folder steps: the steps of tiles, 0 to 100."
        ),
    ] = None

    def check(self, files: Mapping[str, Path], reference: Path | None) -> None:
        """Raise InputError if results would overwrite an input, or maps images."""
        from flashdiffusion.pipeline.restoration import STEPS

        folders = [self.out] if self.maps is None else [self.out, self.maps, self.maps / STEPS]
        for folder in folders:
            keep_inputs(files, folder, ".png", others=[] if reference is None else [reference])
        if self.maps is not None and self.maps.resolve() in {self.out.resolve(), reference and reference.resolve()}:
            raise InputError(f"maps is {self.maps}, a folder of images; choose another --maps")

    def folders(self) -> dict[str, Path]:
        """The folders, made, by what an item's PNGs show."""
        from flashdiffusion.data import ensure_directory

        given = {"restored": self.out, "severity": self.maps}
        return {kind: ensure_directory(folder) for kind, folder in given.items() if folder is not None}


@dataclass(frozen=True)
class TiledRunOptions(options.RunOptions):
    """A run over pictures that may be restored in tiles."""

    tile: options.Tile = None


def command(
    inputs: options.Inputs,
    output: OutputOptions,
    method: options.MethodOptions,
    damage: DamageOptions,
    truth: TruthOptions,
    model: options.PictureModelOptions,
    run: TiledRunOptions,
    fit: options.Fit = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
) -> int:
    """Restore images: writes NAME.png for each, and results.json with one record per image."""
    from flashdiffusion.data import ensure_directory, write_bytes
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.jobs import Item, RestoreJob
    from flashdiffusion.model import PHOTOGRAPHS
    from flashdiffusion.pipeline.restoration import STEPS

    method.parts()  # an unknown one is refused before anything is read
    truth.check(output.out)
    files = named(inputs)
    unknown = [path for path in files.values() if path.suffix != SUFFIX]  # what damaged it, they do not say
    damage.check(unknown, seed)
    output.check(files, truth.reference)
    folders, model = output.folders(), model.chosen(fit)
    about = model.about(method.regressor) | damage.about() | truth.about()
    about |= {"method": method.name, "seed": seed, "given": method.given, "fit": fit, "tile": run.tile}
    found = {} if truth.reference is None else references(truth.reference, inputs, files)
    true_images = {name: str(path) for name, path in found.items()}
    given = (damage.physics, damage.std, seed, method.given, fit, true_images, truth.weights, run.max_in_flight)
    job = RestoreJob(
        model.choice(method.regressor, run.compile), method.name, *given, maps=output.maps is not None, tile=run.tile
    )

    if run.here:  # a worker elsewhere may not see the folder
        depends = sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        job = replace(job, kept=(str(output.out), depends))

    def settings_of(records: "list[Record]") -> dict[str, Any]:
        kinds = {record.degradation["physics"] for record in records if record.degradation}
        return {"settings": {kind: job.used_settings(kind) for kind in sorted(kinds)}}

    def save(done: Item) -> None:
        for kind, png in done.pngs.items():
            folder = folders["severity"] / STEPS if kind == STEPS else folders[kind]
            write_bytes(ensure_directory(folder) / f"{done.name}.png", png)
        _forget_tiles(output.out, done.name)

    items = [Item(i, name, str(path)) for i, (name, path) in enumerate(files.items())]
    delivery = Delivery(
        *(job, items, run, output.out / "results.json", about, job.digest_of),
        save=save,
        clear=lambda: _forget_tiles(output.out),
        saved=lambda name: all(
            (file := one / f"{name}.png").exists() and file.stat().st_size > 0 for one in folders.values()
        ),
    )
    if records := delivery(settings_of):
        if not unknown and damage.unused is not None:
            note(damage.unused)
        if method.by_default and model.name == PHOTOGRAPHS:
            _note_noise_alone(records)
        title = f"{method.name}, model {model.name}: images and results.json in {output.out}"
        print_records(title, records, as_json, about)
    return delivery.failures.finish(len(files))


def _forget_tiles(out: Path, name: str | None = None) -> None:
    """Delete the kept tiles of a picture that is whole, or of all."""
    from flashdiffusion.jobs.restore import kept_prefix

    for folder in out.glob(".*.tiles-*"):
        if name is None or folder.name.startswith(kept_prefix(name)):
            shutil.rmtree(folder, ignore_errors=True)


def _note_noise_alone(records: "Sequence[Record]") -> None:
    """Say what is better than the default method where nothing but noise damaged an image."""
    from flashdiffusion.physics import Denoising

    alone = sum(one.degradation is not None and one.degradation["physics"] == Denoising.name for one in records)
    if alone:
        note(
            f"{alone} of {len(records)} images have nothing but noise: --method denoise, one look of the "
            "denoiser, has a higher PSNR than flash there, and takes less time (docs/results.md)"
        )
