"""Where a published checkpoint and its config lie."""

from pathlib import Path

from flashdiffusion.errors import CheckpointError

SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
MODEL = "model.ckpt"


def find_published(source: str | Path) -> Path | None:
    """Find the checkpoint file that `source` is or holds; None for folders in diffusers' layout and hub ids.

    Raises:
        CheckpointError: it is named as a file, but is none; or a file of another kind.
    """
    path = Path(source)
    if path.is_dir():
        return path / MODEL if (path / MODEL).is_file() and not (path / "scheduler").is_dir() else None
    if path.suffix in SUFFIXES and path.is_file():
        return path
    if path.suffix in SUFFIXES:
        raise CheckpointError(f"no file {path}; expected a checkpoint")
    return None


def find_config(checkpoint: Path, names: tuple[str, ...] = ()) -> Path | None:
    """Find the config beside a checkpoint: one of the same name, or of `names`."""
    same = [checkpoint.with_suffix(suffix) for suffix in (".yaml", ".yml", ".json")]
    for path in [*same, *(checkpoint.with_name(name) for name in names)]:
        if path.is_file():
            return path
    return None
