"""Text-to-image UNets: Stable Diffusion 1.x, 2.x and XL."""

from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from flashdiffusion.errors import InputError, shown
from flashdiffusion.priors.denoisers.base import Conditions, register_denoiser
from flashdiffusion.priors.denoisers.text import TextDenoiser

# What a UNet of more channels than its latents is given besides.
_GIVEN = {
    9: "an inpainting model (mask and masked image)",
    8: "an image to edit (pix2pix)",
    7: "a small image to enlarge",
    5: "a depth map",
}
_SIZES = 6  # numbers that SDXL is told: of the original, the crop's corner, of the target; height before width


@register_denoiser
class TextUNet(TextDenoiser):
    """diffusers' UNet2DConditionModel; SDXL is told besides that images are of their own size and not cropped."""

    network = UNet2DConditionModel

    def check(self) -> None:
        config = self.config
        if config.in_channels in _GIVEN and config.out_channels == 4:
            raise InputError(
                f"a UNet of {config.in_channels} channels in and 4 out is given {_GIVEN[config.in_channels]} at each "
                "step, which is not supported; expected the model that it was made from, with as many in as out"
            )
        told = {
            "addition_embed_type": (None, "text_time"),
            "encoder_hid_dim_type": (None,),
            "time_cond_proj_dim": (None,),
        }
        for name, known in told.items():
            if config.get(name) not in known:
                kinds = "SD 1.x, SD 2.x or SDXL"
                raise InputError(
                    f"{name} is {shown(config[name])}: a UNet that is told more than text; expected {kinds}"
                )
        if self._xl and config.projection_class_embeddings_input_dim < _SIZES * config.addition_time_embed_dim:
            raise InputError("a UNet with embeddings too small for SDXL's; expected SDXL's base model")

    @property
    def _xl(self) -> bool:
        return self.config.get("addition_embed_type") == "text_time"

    @property
    def encoders(self) -> tuple[str, ...]:
        return ("text_encoder", "text_encoder_2") if self._xl else super().encoders

    @property
    def pipeline(self) -> Any:
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        return StableDiffusionXLPipeline if self._xl else StableDiffusionPipeline

    @property
    def unit(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def tokens(self) -> None:
        return None

    @property
    def text_width(self) -> int:
        width = self.config.cross_attention_dim
        return int(width if isinstance(width, int) else width[0])

    def encode(self, conditions: Conditions) -> list[Tensor]:
        told = super().encode(conditions)
        if self._xl:
            width = self.config.projection_class_embeddings_input_dim - _SIZES * self.config.addition_time_embed_dim
            if told[1].shape[-1] != width:
                raise InputError(
                    f"text encoders give {told[1].shape[-1]} numbers of the whole text and the UNet takes {width}; "
                    "expected equal numbers, as SDXL's base model has (its refiner is not supported)"
                )
        return told

    def predict(self, z: Tensor, times: Tensor, *told: Tensor) -> Tensor:
        more: dict[str, Any] = {}
        if self._xl:
            size = [side * self.factor for side in z.shape[2:]]
            ids = torch.tensor([*size, 0, 0, *size], device=z.device, dtype=z.dtype).expand(len(z), -1)
            more["added_cond_kwargs"] = {"text_embeds": told[1], "time_ids": ids}
        return cast(Tensor, self.model(z, times, encoder_hidden_states=told[0], **more).sample)
