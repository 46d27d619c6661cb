"""Reading model folders in diffusers' layout: a folder per component, config.json plus weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
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
TEXT_PICKLED = "pytorch_model.bin"
# The folders that are used; a pipeline on the hub has more (safety_checker, feature_extractor, image_encoder).
_PARTS = [
    *("autoencoder", "vae", "vqvae", "denoiser", "unet", "transformer", "scheduler"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
    *("severity_encoder", "regressor", "distilled_decoder"),
]
_WITH_PROMPTS = ("text_encoder_3", "tokenizer_3")
_TOKENIZER = ("merges.txt", "spiece.model")
# How diffusers called the layers of attention until 0.13.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def resolve_folder(
    source: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    subfolder: str | None = None,
    text: bool = False,
) -> Path:
    """Return a local folder, or download a hub id `owner/name`; what is in the hub's cache is taken from there.

    Only the parts that are used are fetched, in safetensors; pickled weights for components that have no others. With
    `HF_HUB_OFFLINE=1` nothing is.

    Args:
        source: folder, or hub id.
        revision: branch, tag, commit of a hub id.
        variant: of the weights, such as "fp16": `diffusion_pytorch_model.fp16.safetensors`.
        token: for models that are private or gated; None takes that of `hf auth login`.
        subfolder: the model's place in the folder.
        text: whether a prompt is given, for encoders that are only used then.

    Raises:
        CheckpointError: no such folder, or the download failed.
    """
    path = Path(source)
    if path.is_dir():
        return _within(path, subfolder)
    if path.exists():
        raise CheckpointError(f"{path} is a file; expected a model folder in diffusers' layout, or a hub id")
    parts = str(source).split("/")
    if len(parts) != 2 or str(source).startswith((".", "/", "~")):
        raise CheckpointError(
            f"no model folder {source}; expected a folder in diffusers' layout, or a hub id owner/name"
        )
    try:
        return _within(_download(str(source), revision, variant, token, subfolder, text), subfolder)
    except (CheckpointError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise CheckpointError(_why(str(source), revision, error)) from error


def _within(folder: Path, subfolder: str | None) -> Path:
    path = folder / (subfolder or "")
    if not path.is_dir() or ".." in Path(subfolder or "").parts:
        raise CheckpointError(f"{folder} has no folder {subfolder}; expected that of a model")
    return path


def _download(
    source: str,
    revision: str | None,
    variant: str | None,
    token: str | bool | None,
    subfolder: str | None,
    text: bool,
) -> Path:
    parts = _PARTS if text else [part for part in _PARTS if part not in _WITH_PROMPTS]
    prefix = f"{subfolder}/" if subfolder else ""
    own: dict[str, Any] = {} if token is None else {"token": token}

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, **own))

    jsons = [f"{part}/*.json" for part in parts] + [f"{part}/{name}" for part in parts for name in _TOKENIZER]
    weights = [f"{part}/{name}" for part in parts for name in _safetensors(variant)]
    folder = fetch([prefix + one for one in ("*.json", *jsons, *weights)])
    there = [folder / prefix / part for part in parts if (folder / prefix / part / "config.json").is_file()]
    bare = [path.name for path in there if not any(path.glob("*.safetensors"))]
    if bare:
        others = _safetensors(None) if variant else []
        pickled = {part: TEXT_PICKLED if part.startswith("text") else PICKLED for part in bare}
        folder = fetch([f"{prefix}{part}/{name}" for part in bare for name in (*others, pickled[part])])
    return folder


def _safetensors(variant: str | None) -> list[str]:
    """Patterns of the files of weights, in shards too."""
    kind = f".{variant}" if variant else ""
    stems = (WEIGHTS.partition(".")[0], "model")
    return [f"{stem}{kind}{rest}.safetensors" for stem in stems for rest in ("", "-*-of-*")]


def _why(source: str, revision: str | None, error: Exception) -> str:
    """Say why a hub model could not be had, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{source} is gated: accept its terms at https://huggingface.co/{source}, then give token=, or log in with "
            "`hf auth login`"
        )
    failed = f"no folder {source} here, and downloading the hub model of that id failed"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{failed}: it has no revision {revision!r}; expected a branch, tag or commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{failed}: there is none, or it is private; expected an id owner/name, and a token= if it is private"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return (
            f"{failed}: the hub cannot be reached, or HF_HUB_OFFLINE is set, and it is not in the cache: {brief(error)}"
        )
    return f"{failed}: {brief(error)}"


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


def load_component(cls: type[T], folder: Path, variant: str | None = None, dtype: torch.dtype = torch.float32) -> T:
    """Load a diffusers model from its folder, with every weight accounted for.

    Safetensors if there are any, in shards too, else pickled weights, of which only tensors are read: code in them is
    not executed.

    Args:
        variant: of the weights, such as "fp16"; where the folder has none of it, the others are read.
        dtype: what the weights become.

    Raises:
        CheckpointError: missing, of another class, a config that makes no network, or weights that do not fit it.
    """
    config = read_json(folder / "config.json")
    if (name := config.get("_class_name")) != cls.__name__:
        kind = ", which is given text or a class at each step" if "Condition" in str(name) else ""
        raise CheckpointError(f"{folder} holds a {shown(name)}{kind}; expected {cls.__name__}")
    if (method := config.get("quantization_config")) is not None:
        how = method.get("quant_method") if isinstance(method, Mapping) else method
        raise CheckpointError(f"{folder} is quantised ({shown(how)}); expected the model's float weights")
    for name in ("num_class_embeds", "class_embed_type"):
        if config.get(name) is not None:
            raise CheckpointError(
                f"{folder} is class-conditional ({name} {shown(config[name])}); expected a model that is given no class"
            )
    check_arguments(cls, config, str(folder / "config.json"))
    loader: Any = cls
    weights = _weights(folder, variant)
    return fill(outline(lambda: loader.from_config(config), weights, str(folder)), weights, str(folder), dtype=dtype)


def _weights(folder: Path, variant: str | None) -> dict[str, Tensor]:
    names = [name for kind in ([f".{variant}."] if variant else []) + ["."] for name in _files(kind)]
    for name in names:
        if (path := folder / name).is_file():
            tensors = _shards(path) if path.suffix == ".json" else read_tensors(path)
            return _renamed(tensors)
    if found := sorted(path.name for path in folder.glob("*.safetensors")):
        kinds = sorted({name.split(".")[1].split("-")[0] for name in found if name.count(".") > 1})
        if kinds:
            raise CheckpointError(f"{folder} has weights of variant {', '.join(kinds)} alone; give it as variant=")
        if "pytorch_lora_weights.safetensors" in found or "adapter_model.safetensors" in found:
            raise CheckpointError(f"{folder} has LoRA weights alone ({found[0]}); expected those of a whole network")
    if quantised := sorted(path.name for path in folder.glob("*.gguf")):
        raise CheckpointError(f"{folder} has quantised weights ({quantised[0]}); expected the model's float weights")
    raise CheckpointError(f"{folder} has no weights; expected {WEIGHTS} or {PICKLED}")


def _files(kind: str) -> list[str]:
    """Names of a component's weights; those of a variant are `NAME.fp16.safetensors`."""
    return [name.replace(".", kind, 1) for name in (WEIGHTS, f"{WEIGHTS}.index.json", PICKLED)]


def _shards(path: Path) -> dict[str, Tensor]:
    """Read the files that an index of weights names, all in its folder."""
    places = read_json(path).get("weight_map")
    if not isinstance(places, Mapping) or not places or not all(isinstance(v, str) for v in places.values()):
        raise CheckpointError(f"{path} has no weight_map; expected the name of a file for each weight")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path} names {shown(name)}; expected safetensors beside it")
        if not (path.parent / name).is_file():
            raise CheckpointError(f"{path.parent} has no {name}, which {path.name} names; is the download complete?")
        tensors |= read_tensors(path.parent / name)
    if missing := sorted(places.keys() - tensors.keys()):
        raise CheckpointError(f"{path.parent} has nothing for {missing[0]}; expected it: is the download complete?")
    return tensors


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give attention its names of today."""
    old = re.compile(rf"(?<=\.)({'|'.join(_OLD_ATTENTION)})(?=\.\w+$)")
    return {
        old.sub(lambda layer: _OLD_ATTENTION[layer[0]], name) if "attentions." in name else name: tensor
        for name, tensor in tensors.items()
    }


def save_component(model: Any, folder: Path) -> None:
    """Write a diffusers model as safetensors, without local paths in its config."""
    model.save_pretrained(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"})


INDEX = "model_index.json"
TINY = "AutoencoderTiny"  # also the distilled decoder of an autoencoder
_COMPONENTS = {
    "autoencoder": ["diffusers", "AutoencoderKL"],
    "denoiser": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "severity_encoder": ["flashdiffusion", "SeverityEncoder"],
    "regressor": ["flashdiffusion", "Regressor"],
    "distilled_decoder": ["flashdiffusion", "DistilledDecoder"],
}


def write_index(folder: Path, sample_size: int | None, more: Mapping[str, Any] | None = None) -> None:
    """Write diffusers' `model_index.json` for the component folders that are there, and what `more` says."""
    present = {name: home for name, home in _COMPONENTS.items() if (folder / name).is_dir()}
    for name in present.keys() & {"autoencoder", "denoiser", "scheduler", "severity_encoder", "distilled_decoder"}:
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        cls = str(read_json(folder / name / file).get("_class_name", present[name][1]))
        home = "flashdiffusion" if cls.startswith("Patch") else "diffusers" if cls == TINY else present[name][0]
        present[name] = [home, cls]
    for path in sorted(folder.glob("text_encoder*/config.json")):
        cls = read_json(path).get("architectures", ["CLIPTextModel"])[0]
        present[path.parent.name] = ["transformers", cls]
    write_json(folder / INDEX, {"_class_name": "FlashPipeline", **present, **(more or {}), "sample_size": sample_size})


def read_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`, {} if there is none; raises CheckpointError if it, or its sample_size, is malformed."""
    index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    if (size := index.get("sample_size")) is not None and not (is_kind(size, int) and size > 0):
        raise CheckpointError(f"{folder / INDEX}: sample_size is {shown(size)}; expected a whole number above 0")
    return index
