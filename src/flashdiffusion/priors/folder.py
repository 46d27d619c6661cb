"""Reading model folders in diffusers' layout: a folder per component, config.json plus weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from torch import Tensor, nn

from flashdiffusion.data import read_bytes, write_json
from flashdiffusion.errors import CheckpointError, blamed_on, brief, shown
from flashdiffusion.priors.arguments import check_arguments, is_kind
from flashdiffusion.priors.build import fill, outline
from flashdiffusion.priors.tensors import check_sha256, read_tensors

T = TypeVar("T", bound=nn.Module)

WEIGHTS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
LARGEST = 2**20  # bytes of a JSON file
# How diffusers called the layers of attention until 0.13; pickled weights are of that time.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def resolve_folder(source: str | Path, revision: str | None = None) -> Path:
    """Return a local folder, or download a hub id `owner/name` at a revision (branch, tag, commit).

    Pickled weights are fetched for components that have no safetensors.

    Raises:
        CheckpointError: no such folder, or the download failed.
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
    with blamed_on(f"no folder {source} here, and downloading the hub model of that id failed"):
        return _download(str(source), revision)


def _download(source: str, revision: str | None) -> Path:
    patterns = ["*.json", "*/*.json", "*/*.safetensors"]
    folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    bare = [path.parent for path in folder.glob("*/config.json") if not any(path.parent.glob("*.safetensors"))]
    if bare:
        patterns = [f"{component.name}/{PICKLED}" for component in bare]
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    return folder


def check_files(folder: Path, sha256: Mapping[str, str]) -> None:
    """Raise CheckpointError unless the files, named relative to the folder, have these SHA-256."""
    for name, expected in sha256.items():
        check_sha256(folder / name, expected)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model folder; raises CheckpointError if it is missing or none."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; expected a folder in diffusers' layout")
    value = parse_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def parse_json(path: Path) -> Any:
    """Read a JSON file of a model; raises CheckpointError if it is unreadable, too large or not JSON."""
    with blamed_on(path):
        data = read_bytes(path, LARGEST)
        try:
            return json.loads(data)
        except RecursionError:
            raise CheckpointError(f"{path} nests too deeply; expected a plain JSON object") from None
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {brief(error)}") from error


def load_component(cls: type[T], folder: Path) -> T:
    """Load a diffusers model from its folder, with every weight accounted for.

    Safetensors if there are any, else pickled weights, of which only tensors are read: code in them is not executed.

    Raises:
        CheckpointError: missing, of another class, a config that makes no network, or weights that do not fit it.
    """
    config = read_json(folder / "config.json")
    if (name := config.get("_class_name")) != cls.__name__:
        kind = ", which is given text or a class at each step" if "Condition" in str(name) else ""
        raise CheckpointError(f"{folder} holds a {shown(name)}{kind}; expected {cls.__name__}")
    for name in ("num_class_embeds", "class_embed_type"):
        if config.get(name) is not None:
            raise CheckpointError(
                f"{folder} is class-conditional ({name} {shown(config[name])}); expected a model that is given no class"
            )
    check_arguments(cls, config, str(folder / "config.json"))
    loader: Any = cls
    weights = _weights(folder)
    return fill(outline(lambda: loader.from_config(config), weights, str(folder)), weights, str(folder))


def _weights(folder: Path) -> dict[str, Tensor]:
    if (path := folder / WEIGHTS).is_file():
        return read_tensors(path)
    if not (path := folder / PICKLED).is_file():
        raise CheckpointError(f"{folder} has no weights; expected {WEIGHTS} or {PICKLED}")
    old = re.compile(rf"(?<=\.)({'|'.join(_OLD_ATTENTION)})(?=\.\w+$)")
    return {
        old.sub(lambda layer: _OLD_ATTENTION[layer[0]], name) if "attentions." in name else name: tensor
        for name, tensor in read_tensors(path).items()
    }


def save_component(model: Any, folder: Path) -> None:
    """Write a diffusers model as safetensors, without local paths in its config."""
    model.save_pretrained(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"})


INDEX = "model_index.json"
_COMPONENTS = {
    "autoencoder": ["diffusers", "AutoencoderKL"],
    "denoiser": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "severity_encoder": ["flashdiffusion", "SeverityEncoder"],
    "regressor": ["flashdiffusion", "Regressor"],
    "distilled_decoder": ["flashdiffusion", "DistilledDecoder"],
}


def write_index(folder: Path, sample_size: int | None) -> None:
    """Write diffusers' `model_index.json` for the component folders that are there."""
    present = {name: home for name, home in _COMPONENTS.items() if (folder / name).is_dir()}
    for name in present.keys() & {"autoencoder", "severity_encoder"}:
        cls = str(read_json(folder / name / "config.json").get("_class_name", present[name][1]))
        present[name] = ["flashdiffusion" if cls.startswith("Patch") else present[name][0], cls]
    write_json(folder / INDEX, {"_class_name": "FlashPipeline", **present, "sample_size": sample_size})


def read_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`, {} if there is none; raises CheckpointError if it, or its sample_size, is malformed."""
    index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    if (size := index.get("sample_size")) is not None and not (is_kind(size, int) and size > 0):
        raise CheckpointError(f"{folder / INDEX}: sample_size is {shown(size)}; expected a whole number above 0")
    return index
