"""Model folders that cannot be used are refused when they are loaded, in one line that says why."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from flashdiffusion import FlashPipeline
from flashdiffusion.errors import CheckpointError
from flashdiffusion.presets import Presets
from flashdiffusion.priors import LatentPrior
from flashdiffusion.priors.folder import load_component, read_json
from flashdiffusion.regression import Regressor
from flashdiffusion.schedule import NoiseSchedule
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


@pytest.mark.parametrize(
    ("file", "settings", "reason"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": -1}, "num_train_timesteps is -1; expected a whole"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 10**12},
            "expected a whole number from 1 to 1000000",
        ),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}, "num_train_timesteps is 'many'"),
        ("scheduler/scheduler_config.json", {"beta_start": float("nan")}, "beta_start is nan; expected a number betw"),
        ("scheduler/scheduler_config.json", {"beta_end": 2}, "beta_end is 2; expected a number between 0 and 1"),
        ("scheduler/scheduler_config.json", {"trained_betas": ["a"]}, "trained_betas is ['a']; expected a list"),
        ("scheduler/scheduler_config.json", {"prediction_type": []}, "prediction type '[]'; expected one of epsilon"),
        ("autoencoder/config.json", {"scaling_factor": "0.5"}, "scaling_factor is '0.5'; expected float"),
        ("autoencoder/config.json", {"scaling_factor": -1.0}, "scaling_factor -1.0 over latents_std ["),
        ("autoencoder/config.json", {"scaling_factor": float("nan")}, "scaling_factor is nan; expected float"),
        ("autoencoder/config.json", {"latents_mean": [0.0] * 3}, "latents_mean is [0.0, 0.0, 0.0]; expected 8 numbers"),
        ("autoencoder/config.json", {"latents_std": [0.0] * 8}, "expected numbers above 0"),
        ("autoencoder/config.json", {"_class_name": ["VQModel"]}, "holds a ['VQModel']; expected AutoencoderKL or"),
        ("denoiser/config.json", {"norm_eps": "small"}, "norm_eps is 'small'; expected float"),
        ("denoiser/config.json", {"downsample_padding": 10**4}, "downsample_padding is 10000; expected 0 or 1"),
        ("denoiser/config.json", {"freq_shift": 4}, "its denoiser gives (1, 8, 16, 16) of nan"),
        ("denoiser/config.json", {"mid_block_scale_factor": 0}, "its denoiser gives (1, 8, 16, 16) of nan"),
        ("model_index.json", {"sample_size": "big"}, "sample_size is 'big'; expected a whole number above 0"),
        (
            "severity_encoder/config.json",
            {"encoder_config": {"in_channels": 1.5}},
            "encoder_config: in_channels is 1.5",
        ),
    ],
)
def test_values_that_cannot_be_are_named_with_their_file(
    tmp_path: Path, tiny_model: Path, file: str, settings: dict[str, object], reason: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(CheckpointError) as caught:
        FlashPipeline.from_pretrained(tmp_path / "model")
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "model") in str(caught.value)


def test_steps_and_betas_at_their_bounds_are_taken() -> None:
    assert len(NoiseSchedule.from_config({"num_train_timesteps": 1, "trained_betas": [0.1]})) == 1
    assert len(NoiseSchedule.from_config({"trained_betas": [0.1, 0.2]})) == 2


@pytest.mark.parametrize(
    "rows",
    [
        {"task": 1},
        [1],
        [{"task": "a", "method": "b", "steps": "c", "settings": {}}],
        [{"task": "a", "method": "b", "steps": None, "settings": {"eta": "four"}}],
        [{"task": "a", "method": "b", "steps": None, "settings": {"guidance": "four"}}],
        [{"task": "a", "method": "b", "steps": None, "settings": {}, "psnr": "high"}],
    ],
)
def test_presets_that_cannot_be_are_refused(tmp_path: Path, rows: object) -> None:
    (tmp_path / "presets.json").write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match=r"presets\.json is no list of presets"):
        Presets.read(tmp_path)


def test_presets_of_solvers_that_are_not_registered_here_are_kept(tmp_path: Path) -> None:
    row = {"task": "a", "method": "own", "steps": None, "settings": {"strength": "x"}}
    (tmp_path / "presets.json").write_text(json.dumps([row]))
    assert Presets.read(tmp_path).table["a", "own", None].settings == {"strength": "x"}


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    _unet().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"has no (config\.json|weights)"):
        load_component(UNet2DModel, tmp_path)


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (0.18215, True), (30.0, True)])
def test_a_scaling_factor_that_another_library_wrote_is_noticed(
    tmp_path: Path, tiny_model: Path, factor: float, warned: bool
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / "autoencoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": factor}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LatentPrior.from_pretrained(tmp_path / "model")
    found = [str(one.message) for one in caught if "latents of a photograph" in str(one.message)]
    assert len(found) == warned
    assert all(f"scaling_factor of {factor:g}" in one and "set it to 1" in one for one in found)
