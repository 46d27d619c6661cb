"""Why a model is not one that restores images: what people bring, and a line for each."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from flashdiffusion.errors import CheckpointError, shown
from flashdiffusion.priors.folder import INDEX, read_json

_CLASSES = {
    "ControlNet": "a control net, which steers a model and is none",
    "Adapter": "an adapter, which steers a model and is none",
    "ConsistencyDecoder": "a decoder that is a diffusion model itself: it draws images at random, in steps of its own, "
    "and has no derivative to fit a measurement by; take the model's AutoencoderKL",
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
# Text encoders in a checkpoint of Stable Diffusion 1.x, 2.x, XL and 3; of 3 there may be none.
_SINGLE_FILE = (
    *("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders."),
    *("text_encoders.", "model.diffusion_model.joint_blocks."),
)
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


def reason_for_tensors(names: Collection[str]) -> str | None:
    """Say what a file of weights is by their names, if it is of a kind that is known not to do."""
    if any(".quant_state" in name or name.endswith((".absmax", ".SCB")) for name in names):
        return "is quantised (bitsandbytes); expected float weights"
    if any("lora_" in name or ".lora." in name for name in names):
        return "holds LoRA weights alone; expected a whole model: merge them into it first"
    if any(name.startswith(("control_model.", "controlnet_")) for name in names):
        return "is a control net, which steers a model and is none; expected the model itself"
    if any(name.startswith(_SINGLE_FILE) for name in names):
        kind = "StableDiffusionPipeline"
        if any(".joint_blocks." in name for name in names):
            kind = "StableDiffusion3Pipeline"
        elif any(name.startswith("conditioner.") for name in names):
            kind = "StableDiffusionXLPipeline"
        return (
            "is a text-to-image model in one file; expected a folder, which diffusers makes of it: "
            f"{kind}.from_single_file(FILE).save_pretrained(FOLDER), then load FOLDER"
        )
    return None


def refuse_file(path: Path) -> None:
    """Raise CheckpointError for a file of a kind that is known not to do."""
    if path.suffix == ".gguf":
        raise CheckpointError(f"{path} is quantised (GGUF); expected a folder of the model's float weights")
