"""Why a model is not one that restores images: what people bring, and a line for each."""

from pathlib import Path
from typing import Any

from flashdiffusion.errors import CheckpointError, shown
from flashdiffusion.priors.folder import INDEX, read_json

_CLASSES = {
    "ControlNet": "a control net, which steers a model and is none",
    "Adapter": "an adapter, which steers a model and is none",
    "ConsistencyDecoder": "a decoder that is a diffusion model itself: it draws images at random, in steps of its own, and "
    "has no derivative to fit a measurement by; take the model's AutoencoderKL",
    "AutoencoderKLTemporalDecoder": "an autoencoder of videos",
    "Oobleck": "an autoencoder of sounds",
    "Audio": "a model of sounds",
    "UNet1D": "a model of sounds or trajectories",
    "UNet3D": "a model of videos",
    "SpatioTemporal": "a model of videos",
    "Motion": "a model of videos",
    "Transformer3D": "a model of videos",
}
_VIDEO = ("Allegro", "CogVideo", "Cosmos", "HunyuanVideo", "LTX", "Magvit", "Mochi", "SanaVideo", "Wan")
_LORA = ("pytorch_lora_weights", "adapter_model", "adapter_config")


def reason_for(name: Any) -> str:
    """Say in a few words what a class of diffusers is, if it is known not to do; "" else."""
    text = str(name)
    if any(kind in text for kind in _VIDEO):
        return ", a model of videos"
    return next((f", {reason}" for kind, reason in _CLASSES.items() if kind in text), "")


def no_denoiser(folder: Path) -> CheckpointError:
    """Make the error for a folder without a denoiser: what it holds in its place, as far as that is known."""
    expected = "expected a diffusers model folder, with a folder denoiser, unet or transformer"
    if any(path.name.startswith(_LORA) for path in folder.glob("*")):
        return CheckpointError(f"{folder} holds LoRA weights alone; {expected}: merge them into their model first")
    if any(folder.glob("*.gguf")):
        return CheckpointError(f"{folder} holds a quantised (GGUF) file; {expected}, of float weights")
    name = read_json(path).get("_class_name") if (path := folder / "config.json").is_file() else None
    if name is not None:
        return CheckpointError(f"{folder} holds a {shown(name)}{reason_for(name) or ' alone'}; {expected}")
    index = read_json(path).get("_class_name") if (path := folder / INDEX).is_file() else None
    named = f" ({shown(index)}{reason_for(index)})" if index else ""
    return CheckpointError(f"{folder}{named} has no folder denoiser, unet or transformer; {expected}")


def refuse_file(path: Path) -> None:
    """Raise CheckpointError for a file of a kind that is known not to do."""
    if path.suffix == ".gguf":
        raise CheckpointError(f"{path} is quantised (GGUF); expected a folder of the model's float weights")
