"""Flow-matching transformers: Stable Diffusion 3 and 3.5."""

import warnings
from typing import Any, cast

from diffusers import SD3Transformer2DModel
from torch import Tensor

from flashdiffusion.priors.denoisers.base import Conditions, register_denoiser
from flashdiffusion.priors.denoisers.text import TextDenoiser
from flashdiffusion.priors.folder import read_index

_T5 = "text_encoder_3"


@register_denoiser
class SD3(TextDenoiser):
    """diffusers' SD3Transformer2DModel.

    T5 is used if there is text, a prompt or a negative one, and its folder is there. Else its place is taken by zeros,
    on which SD3 was trained as much; with text, a model that says it has T5 warns of that.
    """

    network = SD3Transformer2DModel
    component = "transformer"

    @property
    def encoders(self) -> tuple[str, ...]:
        return ("text_encoder", "text_encoder_2")

    def encoders_for(self, conditions: Conditions) -> tuple[str, ...]:
        if not conditions.has_text or self.folder is None:
            return self.encoders
        if (self.folder / _T5).is_dir():
            return (*self.encoders, _T5)
        named = read_index(self.folder).get(_T5)  # [null, null] of a model that is meant to have none
        if isinstance(named, list) and any(named):
            warnings.warn(
                f"{self.folder} has no folder {_T5}, which its model_index.json names: zeros stand for T5's text. Of a "
                "model on the hub it is fetched where from_pretrained is given the prompt",
                stacklevel=2,
            )
        return self.encoders

    @property
    def pipeline(self) -> Any:
        from diffusers import StableDiffusion3Pipeline

        return StableDiffusion3Pipeline

    @property
    def unit(self) -> int:
        return int(self.config.patch_size)

    @property
    def largest(self) -> int:
        return int(self.config.pos_embed_max_size) * self.unit

    @property
    def text_width(self) -> int:
        return int(self.config.joint_attention_dim)

    def predict(self, z: Tensor, times: Tensor, *told: Tensor) -> Tensor:
        text, whole = told
        return cast(
            Tensor,
            self.model(z, encoder_hidden_states=text, pooled_projections=whole, timestep=times).sample,
        )
