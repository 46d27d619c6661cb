"""Model folders that cannot be used are refused when they are loaded, in one line that says why."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.folder import load_component, read_json


def _unet(**settings: object) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(32,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        **settings,
    )


@pytest.mark.parametrize("settings", [{"num_class_embeds": 10}, {"class_embed_type": "timestep"}])
def test_class_conditional_networks_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    _unet(**settings).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="class-conditional"):
        load_component(UNet2DModel, tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, safe: bool) -> None:
    unet = _unet()
    with torch.no_grad():
        unet.conv_in.weight[0] = float("nan")
    unet.save_pretrained(tmp_path, safe_serialization=safe)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight hold NaN"):
        load_component(UNet2DModel, tmp_path)


def test_json_that_nests_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(CheckpointError, match="nests too deeply"):
        read_json(tmp_path / "config.json")
