"""The stage of the supervised baseline: it learns, needs no other stage, resumes, and joins the model's folder."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors import load_component
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.training.config import PatchConfig
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.recipes import RECIPES
from flashdiffusion.training.regressor import RegressorStage
from flashdiffusion.training.run import train, with_severity

WEIGHTS = "regressor/diffusion_pytorch_model.safetensors"


def test_it_overfits_one_image(image_folder, recipe):
    torch.manual_seed(0)
    stage = RegressorStage(with_severity(recipe, None, "gaussian-blur-fixed", "0").regressor)
    x = ImageDataset([image_folder], 32).batch([0])
    optimizer = torch.optim.Adam(stage.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss, log = stage("regressor", x, Draws(0, 0, 1, slice(None), "cpu"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert log.keys() == {"psnr"} and not log["psnr"].requires_grad


def test_it_needs_no_other_stage_and_leaves_a_regressor(tmp_path, image_folder, recipe):
    train("regressor", [image_folder], recipe, tmp_path, max_steps=2)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["regressor"]
    model = load_component(Regressor, tmp_path / "regressor")
    y = ImageDataset([image_folder], 32).batch(range(2))
    assert model(y).shape == y.shape and not model.training
    assert (tmp_path / "regressor-samples.png").exists()


def test_a_stopped_and_resumed_run_equals_a_whole_one(tmp_path, monkeypatch, image_folder, recipe):
    class Stop(Exception):
        pass

    forward, calls = RegressorStage.forward, iter(range(100))

    def stopping(self, phase, x, draws):
        if next(calls) == 3:
            raise Stop
        return forward(self, phase, x, draws)

    train("regressor", [image_folder], recipe, tmp_path / "whole", max_steps=6)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(RegressorStage, "forward", stopping)
        train("regressor", [image_folder], recipe, tmp_path / "parts", max_steps=6)
    assert not (tmp_path / "parts" / "regressor").exists()
    train("regressor", [image_folder], recipe, tmp_path / "parts", max_steps=6, resume=True)
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-5, rtol=0)


def test_a_folder_of_another_stage_is_refused(tmp_path, image_folder, recipe):
    train("regressor", [image_folder], recipe, tmp_path, max_steps=1)
    with pytest.raises(CheckpointError, match="holds a 'Regressor'; expected SeverityEncoder"):
        load_component(SeverityEncoder, tmp_path / "regressor")


def test_a_model_is_whole_without_it_and_names_it_where_it_is(tmp_path, image_folder, recipe):
    for stage in ("autoencoder", "denoiser", "severity"):
        train(stage, [image_folder], recipe, tmp_path, max_steps=1)
    assert "regressor" not in json.loads((tmp_path / "model_index.json").read_text())
    train("regressor", [image_folder], recipe, tmp_path, max_steps=1)
    assert json.loads((tmp_path / "model_index.json").read_text())["regressor"] == ["flashdiffusion", "Regressor"]


def test_it_is_trained_on_the_degradations_of_the_severity_encoder(recipe):
    for one in (*RECIPES.values(), with_severity(recipe, None, "random-inpainting", "0.1")):
        assert (one.regressor.task, one.regressor.noise_std) == (one.severity.task, one.severity.noise_std)


@pytest.mark.parametrize("name", RECIPES)
def test_the_shares_of_all_stages_are_a_whole(name):
    recipe = RECIPES[name]
    stages = [recipe.denoiser, recipe.severity, recipe.regressor]
    stages += [] if isinstance(recipe.autoencoder, PatchConfig) else [recipe.autoencoder]
    assert sum(stage.loop.share for stage in stages) == pytest.approx(1)


def test_the_recipes_regressor_is_small_enough_to_embed():
    model = Regressor(**RECIPES["faces-128"].regressor.model)
    assert 2 * sum(p.numel() for p in model.parameters()) <= 4e6
