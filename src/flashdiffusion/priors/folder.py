"""Reading model folders in diffusers' layout: a folder per component, config.json plus safetensors."""

import json
from pathlib import Path
from typing import Any, TypeVar

from diffusers.utils import logging
from huggingface_hub import snapshot_download

from flashdiffusion.data import write_json
from flashdiffusion.errors import CheckpointError, brief

T = TypeVar("T")


def resolve_folder(source: str | Path, revision: str | None = None) -> Path:
    """A local folder as it is, or the downloaded snapshot of a hub id `owner/name`.

    Raises:
        CheckpointError: neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; expected a model folder in diffusers' layout, or a hub id")
    parts = str(source).split("/")
    if len(parts) != 2 or str(source).startswith((".", "/", "~")):
        raise CheckpointError(
            f"no model folder {source}; expected a folder in diffusers' layout, or a hub id owner/name"
        )
    try:
        found = snapshot_download(
            str(source), revision=revision, allow_patterns=["*.json", "*/*.json", "*/*.safetensors"]
        )
    except Exception as error:
        raise CheckpointError(
            f"no folder {source} here, and downloading the hub model of that id failed: {brief(error)}"
        ) from error
    return Path(found)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder.

    Raises:
        CheckpointError: missing or not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}; expected a folder in diffusers' layout") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def load_component(cls: type[T], folder: Path) -> T:
    """A diffusers model from its folder, every weight accounted for.

    Raises:
        CheckpointError: missing, of another class, or weights that do not fit the config.
    """
    found = read_json(folder / "config.json").get("_class_name")
    if found != cls.__name__:
        raise CheckpointError(f"{folder} holds a {found}; expected {cls.__name__}")
    loader: Any = cls
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what diffusers warns of is in the report, and raises below
    try:
        model, report = loader.from_pretrained(
            folder,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            local_files_only=True,
        )
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {cls.__name__}: {brief(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise CheckpointError(
                f"{folder}: {kind.replace('_', ' ')} {sorted(report[kind])[:3]}; weights of another config?"
            )
    return model.eval()


def save_component(model: Any, folder: Path) -> None:
    """Write a diffusers model as safetensors; its config keeps no path of this machine."""
    model.save_pretrained(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"})


INDEX = "model_index.json"
_COMPONENTS = {
    "autoencoder": ["diffusers", "AutoencoderKL"],
    "denoiser": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "severity_encoder": ["flashdiffusion", "SeverityEncoder"],
}


def write_index(folder: Path, sample_size: int | None) -> None:
    """Write diffusers' `model_index.json` for the component folders that are there."""
    present = {name: home for name, home in _COMPONENTS.items() if (folder / name).is_dir()}
    if "autoencoder" in present:
        present["autoencoder"] = ["diffusers", str(read_json(folder / "autoencoder" / "config.json")["_class_name"])]
    write_json(folder / INDEX, {"_class_name": "FlashPipeline", **present, "sample_size": sample_size})
