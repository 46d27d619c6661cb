"""Model folders that cannot be used are refused when they are loaded, in one line that says why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.folder import load_component, read_json
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import SeverityEncoder


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


def _change(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "settings",
    [
        {"layers_per_block": 10**9},
        {"layers_per_block": -3},
        {"layers_per_block": 3},
        {"layers_per_block": "many"},
        {"block_out_channels": [32 * 10**7]},
        {"block_out_channels": [32 * 10**30]},
        {"block_out_channels": []},
        {"block_out_channels": 32},
        {"in_channels": 10**12},
        {"attention_head_dim": 0},
        {"norm_num_groups": 7},
        {"down_block_types": ["DownBlock2D"] * 10**4},
        {"down_block_types": ["Nothing"]},
        {"act_fn": "nothing"},
        {"time_embedding_type": "learned", "num_train_timesteps": 10**12},
    ],
    ids=str,
)
def test_networks_of_another_size_are_refused_before_they_are_made(tmp_path: Path, settings: dict[str, object]) -> None:
    _unet().save_pretrained(tmp_path)
    _change(tmp_path, **settings)
    with pytest.raises(CheckpointError) as caught:
        load_component(UNet2DModel, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"refine_layers": 10**9},
        {"latent_channels": 10**9},
        {"encoder_config": {}},
        {"encoder_config": None},
        {"head": "other"},
    ],
    ids=str,
)
def test_severity_encoders_of_another_size_are_refused(
    tmp_path: Path, tiny_model: Path, settings: dict[str, object]
) -> None:
    shutil.copytree(tiny_model / "severity_encoder", tmp_path / "encoder")
    _change(tmp_path / "encoder", **settings)
    with pytest.raises(CheckpointError) as caught:
        load_component(SeverityEncoder, tmp_path / "encoder")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"depths": [10**9]}, {"window": 10**6}, {"stride": 10**6}, {"width": 6 * 10**9}])
def test_regressors_of_another_size_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    Regressor(stride=2, width=12, depths=(1,), heads=2, window=4).save_pretrained(tmp_path)
    _change(tmp_path, **settings)
    with pytest.raises(CheckpointError) as caught:
        load_component(Regressor, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
