"""What `flashdiffusion train` runs: one stage or all of them, one after the other."""

import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import torch

from flashdiffusion.data import ImageDataset, atomic_path, ensure_directory
from flashdiffusion.data.crops import Crops
from flashdiffusion.data.named import TRAIN, by_name
from flashdiffusion.errors import InputError, check_name, unknown_name
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import get_task
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.priors import IdentityAutoencoder, PatchAutoencoder, load_autoencoder
from flashdiffusion.priors.denoisers.text import ZEROS_FOR_NO_TEXT
from flashdiffusion.priors.folder import read_index, write_index
from flashdiffusion.severity.encoder import HEADS
from flashdiffusion.training.autoencoder import AutoencoderStage
from flashdiffusion.training.config import PatchConfig, Recipe
from flashdiffusion.training.denoiser import DenoiserStage
from flashdiffusion.training.distilled_decoder import DistilledDecoderStage
from flashdiffusion.training.loop import train_stage
from flashdiffusion.training.regressor import RegressorStage
from flashdiffusion.training.severity import SeverityStage
from flashdiffusion.training.stage import Stage

STAGES = ("autoencoder", "denoiser", "severity", "regressor")
OPTIONAL_STAGES = ("distilled-decoder",)  # trained by name; "all" leaves them out
BESIDE = ("severity", "distilled-decoder")  # what a model of others may lack
PIXEL_STAGES = ("denoiser", "regressor")  # what a pixel-space model is made of
SPACES = ("latent", "pixel")
FITTED = 512  # images that a patch autoencoder is fitted to


def train(
    which: str,
    data: Sequence[str | Path],
    recipe: Recipe,
    out: str | Path,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    lpips: str | Path | None = None,
    limit: int | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    model: str | Path | None = None,
) -> Path:
    """Train one stage, or "all", below `out`; the result is a folder that FlashPipeline loads.

    Args:
        max_minutes: time box (of all stages together for "all"); default: the recipe's, in its shares.
        max_steps: an upper bound on the steps of each stage beside it.
        lpips: LPIPS weights, see `LPIPS.load`; without them the autoencoder trains without its perceptual term.
        limit: use the first images only.
        init: a trained model, by folder or name; the severity encoder starts from that model's in place of E0, the
            denoiser from that model's in place of random weights.
        model: a folder or hub id whose severity encoder or distilled decoder this is to be; it is copied into `out`
            first. For a model in `out` images are of its own size, and fewer at a time if that is larger than the
            recipe's.

    Raises:
        InputError: unknown stage, no images, or a stage before this one is missing in `out`.
        CheckpointError: weights or checkpoints that cannot be read.
    """
    pixels = recipe.denoiser.space == "pixel"
    stages = PIXEL_STAGES if pixels else STAGES
    known = (*stages, "all") if pixels else (*stages, *OPTIONAL_STAGES, "all")
    if which not in known:
        if which in STAGES + OPTIONAL_STAGES:
            raise InputError(f"a pixel-space model has no {which}; its stages are {', '.join(stages)}")
        raise unknown_name("stage", which, known)
    if init is not None and which not in {"denoiser", "severity", "all"}:
        raise InputError(f"init is for the denoiser and the severity encoder; leave it out for the {which}")
    out = Path(out)
    if model is not None:
        _copy_model(which, model, out, resume)
    if which in BESIDE:
        recipe = _of_its_size(which, recipe, out, model is not None)
    if pixels and (out / FOLDERS["autoencoder"]).is_dir():
        raise InputError(f"{out} holds an autoencoder, and a pixel-space model has none; choose another --out")
    split = TRAIN if any(by_name(one) for one in data) else None
    kind = ImageDataset if recipe.crops is None else partial(Crops, smallest=recipe.crops)
    images = kind(data, recipe.size, limit, recipe.cache_gib, split)
    for note in images.notes:
        print(f"flashdiffusion: note: {note}", file=sys.stderr)
    total = recipe.max_minutes if max_minutes is None else max_minutes
    for name in stages if which == "all" else (which,):
        if name == "autoencoder" and isinstance(recipe.autoencoder, PatchConfig):
            _fit_patches(images, recipe.autoencoder, out / FOLDERS[name], resume)
            continue
        torch.manual_seed(recipe.seed)  # of the weights' initialisation
        stage = make_stage(name, recipe, out, lpips, init)
        minutes = total * stage.config.loop.share if which == "all" or max_minutes is None else total
        done = resume and which == "all" and (out / FOLDERS[name]).is_dir()
        if not done:
            train_stage(stage, images, recipe, out, minutes, max_steps, resume)
    needed = ("denoiser",) if pixels else ("autoencoder", "denoiser", "severity")
    if all((out / FOLDERS[name]).is_dir() for name in needed):
        told = {name: value for name, value in read_index(out).items() if name == ZEROS_FOR_NO_TEXT}
        write_index(out, recipe.size if recipe.crops is None else None, told)
    return out


def _copy_model(which: str, model: str | Path, out: Path, resume: bool) -> None:
    """Copy a model into `out`, unless it is there."""
    if which not in BESIDE:
        raise InputError(f"model {model} given for {which}; expected it for {' or '.join(BESIDE)}, which it lacks")
    if not (out / FOLDERS["autoencoder"]).is_dir():
        pipeline = FlashPipeline.from_pretrained(model)
        if isinstance(pipeline.prior.autoencoder, IdentityAutoencoder):
            raise InputError(f"model {model} is one of pixels, which has no {which}; expected one with an autoencoder")
        pipeline.sample_size = pipeline.sample_size or pipeline.prior.sample_size
        ensure_directory(out.parent)
        with atomic_path(out) as folder:
            pipeline.save_pretrained(folder)
    elif not resume:
        raise InputError(f"{out} holds a model; leave out --model to train for it, or choose another --out")


def _of_its_size(which: str, recipe: Recipe, out: Path, foreign: bool) -> Recipe:
    """The recipe for images of the size of the model in `out`, where that has one; a foreign one takes no crops."""
    size = read_index(out).get("sample_size")
    if size is None and not foreign:
        return recipe
    size = size or recipe.size
    smaller = min(1.0, (recipe.size / size) ** 2)
    name = which.replace("-", "_")
    stage = getattr(recipe, name)
    loop = replace(stage.loop, batch_size=max(1, round(stage.loop.batch_size * smaller)))
    return replace(recipe, size=size, crops=None, **{name: replace(stage, loop=loop)})


def _fit_patches(images: ImageDataset, config: PatchConfig, folder: Path, resume: bool) -> None:
    """Fit the autoencoder of a folder, unless it is there: what was trained beside it knows its latents alone."""
    if folder.is_dir():
        if not resume:
            raise InputError(f"{folder} exists; pass --resume to keep it, or choose another --out")
        return
    places = torch.linspace(0, len(images) - 1, min(len(images), FITTED)).long().tolist()
    fitted = PatchAutoencoder.fitted(images.batch(places, replace_damaged=True), config.patch, config.exponent)
    fitted.save_pretrained(folder)


FOLDERS = {
    "autoencoder": "autoencoder",
    "denoiser": "denoiser",
    "severity": "severity_encoder",
    "regressor": "regressor",
    "distilled-decoder": "distilled_decoder",
}


def make_stage(
    name: str, recipe: Recipe, out: Path, lpips: str | Path | None = None, init: str | Path | None = None
) -> Stage:
    """Build a stage; denoiser, severity encoder and distilled decoder read the trained autoencoder from `out`."""
    if name == "autoencoder":
        assert not isinstance(recipe.autoencoder, PatchConfig)
        return AutoencoderStage(recipe.autoencoder, LPIPS.load(lpips) if lpips else None)
    if name == "regressor":
        return RegressorStage(recipe.regressor)
    pixels = name == "denoiser" and recipe.denoiser.space == "pixel"
    folder = out / "autoencoder"
    if not pixels and not folder.is_dir():
        raise InputError(f"{out} has no trained autoencoder; run `flashdiffusion train autoencoder` into it first")
    autoencoder = IdentityAutoencoder() if pixels else load_autoencoder(folder)
    if name == "denoiser":
        denoiser = DenoiserStage(recipe.denoiser, autoencoder)
        if init is not None:
            denoiser.start_from(FlashPipeline.from_pretrained(init).prior)
        return denoiser
    assert not isinstance(autoencoder, IdentityAutoencoder)
    if name == "distilled-decoder":
        if isinstance(autoencoder, PatchAutoencoder):
            raise InputError("a patch autoencoder decodes by a transform; there is nothing to distil")
        return DistilledDecoderStage(recipe.distilled_decoder, autoencoder)
    severity = SeverityStage(recipe.severity, autoencoder)
    if init is not None:
        source = FlashPipeline.from_pretrained(init).severity_encoder
        if source is None:
            raise InputError(f"init {init} has no severity encoder; expected a model that has one")
        severity.encoder.start_from(source)
    return severity


def with_precision(recipe: Recipe, precision: str | None) -> Recipe:
    """The recipe in float32 or bfloat16; None leaves its own.

    Raises:
        InputError: another precision.
    """
    if precision is None:
        return recipe
    names = {"float32": "no", "bfloat16": "bf16"}
    check_name("precision", precision, names)
    return replace(recipe, precision=names[precision])


def with_lr(recipe: Recipe, lr: float | None) -> Recipe:
    """The recipe with another learning rate in every stage; None leaves its own.

    Raises:
        InputError: not a finite number above 0.
    """
    if lr is None:
        return recipe
    if not 0 < lr < math.inf:
        raise InputError(f"lr is {lr:g}; expected a finite number above 0, such as 2e-4")
    stages = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    changed = {
        name: replace(stage, loop=replace(stage.loop, lr=lr))
        for name, stage in stages.items()
        if hasattr(stage, "loop")
    }
    return replace(recipe, **changed)


def with_space(recipe: Recipe, space: str) -> Recipe:
    """The recipe of a model in latent space, or in pixel space.

    Raises:
        InputError: unknown space.
    """
    check_name("space", space, SPACES)
    return replace(recipe, denoiser=recipe.pixel_denoiser) if space == "pixel" else recipe


def with_severity(recipe: Recipe, head: str | None, task: str | None, noise_std: str | None) -> Recipe:
    """The recipe with another severity head (and the loss weight that goes with it), task or noise levels.

    Task and noise levels are those of the regressor too: both learn from the same degradations.

    Args:
        noise_std: σ_y, or a range LOW:HIGH that it is drawn from.

    Raises:
        InputError: unknown head or task, or a noise level below 0.
    """
    severity, regressor = recipe.severity, recipe.regressor
    if head is not None:
        check_name("severity head", head, HEADS)
        # λ_σ = 10 is the paper's text; 0.05 belongs to the squared error of logarithms.
        severity = replace(severity, head=head, severity_weight=10.0 if head == "paper" else 0.05)
    if task is not None:
        severity = replace(severity, task=get_task(task).name)
        regressor = replace(regressor, task=severity.task)
    if noise_std is not None:
        severity = replace(severity, noise_std=_noise_range(noise_std))
        regressor = replace(regressor, noise_std=severity.noise_std)
    return replace(recipe, severity=severity, regressor=regressor)


def _noise_range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        levels = (float(low), float(high if colon else low))
    except ValueError as error:
        raise InputError(f"noise std is {text!r}; expected a number, or a range such as 0:0.2") from error
    if not 0 <= levels[0] <= levels[1] < math.inf:
        raise InputError(f"noise std is {text}; expected a finite number >= 0, or a range of such")
    return levels
