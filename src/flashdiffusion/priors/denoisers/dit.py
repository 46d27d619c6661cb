"""Class-conditional diffusion transformers (DiT)."""

from typing import cast

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.priors.denoisers.base import Conditions, Denoiser, register_denoiser


@register_denoiser
class DiT(Denoiser):
    """diffusers' DiTTransformer2DModel: a class of 0..classes-1, or the null class, on which it was trained too."""

    network = DiTTransformer2DModel
    takes = ("class_label", "guidance_scale")
    square = True  # diffusers puts the patches together again by the root of their number

    @property
    def unit(self) -> int:
        return int(self.config.patch_size)

    def encode(self, conditions: Conditions) -> list[Tensor]:
        label, null = conditions.class_label, int(self.config.num_embeds_ada_norm)
        if label is not None and not 0 <= label < null:
            raise InputError(f"class_label is {label}; expected a class from 0 to {null - 1}, or None for no class")
        if label is None and conditions.guided:
            raise InputError(f"guidance_scale is {conditions.guidance_scale:g} without a class_label; expected one")
        return [torch.tensor([null if label is None else label, null])]

    def predict(self, z: Tensor, times: Tensor, *told: Tensor) -> Tensor:
        return cast(Tensor, self.model(z, timestep=times, class_labels=told[0]).sample)
