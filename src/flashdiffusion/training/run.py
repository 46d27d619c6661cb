"""What `flashdiffusion train` runs: one stage or all three, one after the other."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from flashdiffusion.data import PictureDataset, write_json
from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import get_task
from flashdiffusion.priors import DiffusersAutoencoder, load_component
from flashdiffusion.severity.encoder import HEADS
from flashdiffusion.training.autoencoder import AutoencoderStage
from flashdiffusion.training.config import Recipe
from flashdiffusion.training.denoiser import DenoiserStage
from flashdiffusion.training.loop import train_stage
from flashdiffusion.training.severity import SeverityStage
from flashdiffusion.training.stage import Stage

STAGES = ("autoencoder", "denoiser", "severity")


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
) -> Path:
    """Train one stage, or "all" three, below `out`; the result is a folder that FlashPipeline loads.

    Args:
        max_minutes: time box (of all stages together for "all"); default: the recipe's, in its shares.
        max_steps: an upper bound on the steps of each stage beside it.
        lpips: LPIPS weights; without them the autoencoder trains without its perceptual term.
        limit: use the first pictures only.

    Raises:
        InputError: unknown stage, no pictures, or a stage before this one is missing in `out`.
        CheckpointError: weights or checkpoints that cannot be read.
    """
    if which not in {*STAGES, "all"}:
        raise unknown_name("stage", which, [*STAGES, "all"])
    out = Path(out)
    pictures = PictureDataset(data, recipe.size, limit, recipe.cache_gib)
    total = recipe.max_minutes if max_minutes is None else max_minutes
    for name in STAGES if which == "all" else (which,):
        torch.manual_seed(recipe.seed)  # of the weights' initialisation
        stage = make_stage(name, recipe, out, lpips)
        minutes = total * stage.config.loop.share if which == "all" or max_minutes is None else total
        done = resume and which == "all" and (out / FOLDERS[name]).is_dir()
        if not done:
            train_stage(stage, pictures, recipe, out, minutes, max_steps, resume)
    if all((out / folder).is_dir() for folder in FOLDERS.values()):
        write_json(out / "model_index.json", MODEL_INDEX | {"sample_size": recipe.size})
    return out


FOLDERS = {"autoencoder": "autoencoder", "denoiser": "denoiser", "severity": "severity_encoder"}
MODEL_INDEX = {
    "_class_name": "FlashPipeline",
    "autoencoder": ["diffusers", "AutoencoderKL"],
    "denoiser": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "severity_encoder": ["flashdiffusion", "SeverityEncoder"],
}


def make_stage(name: str, recipe: Recipe, out: Path, lpips: str | Path | None) -> Stage:
    """Build a stage; the later two read the trained autoencoder from `out`."""
    if name == "autoencoder":
        return AutoencoderStage(recipe.autoencoder, LPIPS.from_file(lpips) if lpips else None)
    folder = out / "autoencoder"
    if not folder.is_dir():
        raise InputError(f"{out} has no trained autoencoder; run `flashdiffusion train autoencoder` into it first")
    autoencoder = DiffusersAutoencoder(load_component(AutoencoderKL, folder))
    if name == "denoiser":
        return DenoiserStage(recipe.denoiser, autoencoder)
    return SeverityStage(recipe.severity, autoencoder)


def with_severity(recipe: Recipe, head: str | None, task: str | None, noise_std: float | None) -> Recipe:
    """The recipe with another severity head (and the loss weight that goes with it), task or noise level.

    Raises:
        InputError: unknown head or task, or a noise level below 0.
    """
    severity = recipe.severity
    if head is not None:
        if head not in HEADS:
            raise unknown_name("severity head", head, HEADS)
        # λ_σ = 10 is the paper's text; 0.05 belongs to the squared error of logarithms.
        severity = replace(severity, head=head, severity_weight=10.0 if head == "paper" else 0.05)
    if task is not None:
        severity = replace(severity, task=get_task(task).name)
    if noise_std is not None:
        if not 0 <= noise_std < math.inf:
            raise InputError(f"noise std is {noise_std}; expected a finite number >= 0")
        severity = replace(severity, noise_std=noise_std)
    return replace(recipe, severity=severity)
