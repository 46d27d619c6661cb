"""`flashdiffusion convert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashdiffusion.cli.command import option
from flashdiffusion.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from flashdiffusion.pipeline import FlashPipeline
    from flashdiffusion.priors import LatentPrior
    from flashdiffusion.severity import SeverityEncoder


def command(
    source: Annotated[
        str,
        typer.Argument(help="model.ckpt of latent-diffusion, a guided-diffusion .pt, a diffusers folder or a hub id."),
    ],
    out: Annotated[Path, option("Model folder to write; it must not be there yet.")],
    config: Annotated[
        Path | None, option("Config (YAML, JSON) of a checkpoint file; default: the one beside it.")
    ] = None,
    severity: Annotated[
        Path | None, option("Severity encoder published with the paper (.ckpt), for Flash starts.")
    ] = None,
    revision: Annotated[str | None, option("Branch, tag or commit of a hub id.")] = None,
    sha256: Annotated[
        list[str] | None,
        option("Expected SHA-256 of a checkpoint file, or FILE=SHA256 of one among several; repeat for more."),
    ] = None,
) -> None:
    """Turn a published checkpoint into a model folder that --model takes.

    Of a folder of this library its severity encoder and regressor are kept; --severity replaces the former.
    """
    from flashdiffusion.data import atomic_path, ensure_directory
    from flashdiffusion.priors import DiffusersAutoencoder
    from flashdiffusion.published import find_published

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"out is {out}, which is there already; expected a new folder")
    if severity is not None and not severity.is_file():
        raise InputError(f"no severity encoder at {severity}; expected the .ckpt published with the paper")
    file = find_published(source)
    hashes, own = _hashes(sha256 or [], file, severity)
    pipeline = _opened(source, file, config, revision, hashes)
    if severity is not None:
        pipeline.severity_encoder = _severity(severity, pipeline.prior, own)
    pipeline.sample_size = pipeline.sample_size or pipeline.prior.sample_size
    ensure_directory(out.parent)
    with atomic_path(out) as folder:
        pipeline.save_pretrained(folder)
    parts = "prior and severity encoder"
    if pipeline.severity_encoder is None:
        solver = "latent-dps" if isinstance(pipeline.prior.autoencoder, DiffusersAutoencoder) else "dps"
        parts = f"prior, without severity encoder: use --method {solver}"
    if pipeline.regressor is not None:
        parts += "; regressor too"
    print(f"{source} converted in {out} ({parts}); use it with --model {out}")


def _opened(
    source: str, file: Path | None, config: Path | None, revision: str | None, hashes: dict[str, str]
) -> "FlashPipeline":
    """A published file, or a folder or hub id with all that it holds."""
    from flashdiffusion.pipeline import FlashPipeline
    from flashdiffusion.priors.folder import check_files, resolve_folder
    from flashdiffusion.published import load_published

    if file is not None:
        return FlashPipeline(load_published(file, config, hashes.get(file.name)))
    if config is not None:
        raise InputError(f"config {config} given for {source}; expected none: folders have their own")
    folder = resolve_folder(source, revision)
    check_files(folder, hashes)
    return FlashPipeline.from_pretrained(folder)


def _hashes(given: list[str], file: Path | None, severity: Path | None) -> tuple[dict[str, str], str | None]:
    """{file: SHA-256} of the source, and that of the severity encoder."""
    hashes: dict[str, str] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals and file is None:
            raise InputError(f"sha256 {text!r} for a folder or hub id; expected FILE=SHA256, with FILE as unet/NAME")
        hashes[name if equals else str(file.name if file else "")] = value
    own = hashes.pop(severity.name, None) if severity and (file is None or severity.name != file.name) else None
    if file is not None and (strange := sorted(hashes.keys() - {file.name})):
        raise InputError(f"sha256 of {strange[0]}, which is not read; expected one of {file.name}")
    return hashes, own


def _severity(path: Path, prior: "LatentPrior", sha256: str | None) -> "SeverityEncoder":
    """The published severity encoder in the units of this prior's latents."""
    from flashdiffusion.priors import DiffusersAutoencoder
    from flashdiffusion.published import load_published_severity
    from flashdiffusion.severity import check_latents

    if not isinstance(prior.autoencoder, DiffusersAutoencoder):
        raise CheckpointError(f"severity encoder {path} given for a pixel-space prior; expected a latent one")
    gain, shift = prior.autoencoder.gain, prior.autoencoder.shift
    if bool((gain != gain.flatten()[0]).any()) or bool(shift.any()):
        raise CheckpointError(
            f"severity encoder {path} given for latents standardised per channel; expected one scale factor for all"
        )
    encoder = load_published_severity(path, float(gain.flatten()[0]), sha256)
    return check_latents(encoder, prior.autoencoder, path)
