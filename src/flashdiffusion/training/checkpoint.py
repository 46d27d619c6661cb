"""The checkpoint that a training run resumes from: tensors and plain values, written atomically."""

from pathlib import Path
from typing import Any

import torch

from flashdiffusion.data import atomic_path
from flashdiffusion.errors import CheckpointError, InputError, brief


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values), atomically.

    Raises:
        InputError: it cannot be written; the checkpoint before it stays.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer says of a full disk that its stream failed
        raise InputError(
            f"cannot write the checkpoint {path}: {brief(error)}; the one before it is whole: make room, then --resume"
        ) from error


def read_checkpoint(
    path: Path, device: torch.device, recipe: str, stage: str, made_by: dict[str, Any]
) -> dict[str, Any]:
    """Read a checkpoint of this recipe, stage and settings; nothing in it is executed.

    Raises:
        CheckpointError: damaged, or of another recipe, stage or settings.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found, before = (state["recipe"], state["stage"]), state["made_by"]
    except Exception as error:  # torch raises many kinds for files that are no checkpoints
        raise CheckpointError(f"{path} cannot be resumed from: {error}") from error
    if found != (recipe, stage):
        raise CheckpointError(
            f"{path} is of config {found[0]!r}, stage {found[1]!r}; expected {recipe!r}, {stage!r}: take another --out"
        )
    if changed := sorted(key for key in made_by if before.get(key) != made_by[key]):
        raise CheckpointError(
            f"{path} was made with other settings of {', '.join(changed)}; resume with the same ones or choose "
            "another --out"
        )
    return state
