"""What goes wrong in a run: damaged images, gradients that are not finite, other settings on resuming."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.training import loop
from flashdiffusion.training.autoencoder import AutoencoderStage
from flashdiffusion.training.run import train


def _poison(monkeypatch, steps):
    """The loss of these steps is NaN."""
    forward, calls = AutoencoderStage.forward, iter(range(10_000))

    def poisoned(self, phase, x, draws):
        loss, log = forward(self, phase, x, draws)
        return (loss * float("nan") if next(calls) in steps else loss), log

    monkeypatch.setattr(AutoencoderStage, "forward", poisoned)


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path, monkeypatch, image_folder, recipe):
    _poison(monkeypatch, {2})
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=5)
    weights = load_file(tmp_path / "autoencoder" / "diffusion_pytorch_model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_lost_run_ends_and_keeps_finite_weights(tmp_path, monkeypatch, image_folder, recipe):
    monkeypatch.setattr(loop, "MAX_SKIPPED", 3)
    _poison(monkeypatch, set(range(2, 100)))
    with pytest.raises(InputError, match="3 steps in a row"):
        train("autoencoder", [image_folder], recipe, tmp_path, max_steps=50)
    state = torch.load(tmp_path / "autoencoder.ckpt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state["modules"]["autoencoder"].values())


def test_a_damaged_image_is_replaced_and_named(tmp_path, image_folder, recipe, capsys):
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    (folder / "image-03.png").write_bytes(b"no image")
    train("autoencoder", [folder], recipe, tmp_path / "out", max_steps=6)  # two epochs: it is met twice
    assert capsys.readouterr().err.count("image-03.png") == 1
    data = ImageDataset([folder], 32)
    assert torch.equal(data.batch([3], replace_damaged=True), data.batch([4]))
    with pytest.raises(InputError, match="image-03"):
        data.batch([3])


def test_resuming_with_other_settings_is_refused(tmp_path, image_folder, recipe):
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=2)
    other = replace(recipe, autoencoder=replace(recipe.autoencoder, kl_weight=1.0), seed=5)
    with pytest.raises(CheckpointError, match="kl_weight, seed"):
        train("autoencoder", [image_folder], other, tmp_path, max_steps=4, resume=True)


def test_only_precisions_that_are_served_are_taken(tmp_path, image_folder, recipe):
    with pytest.raises(InputError, match="precision is 'fp16'; expected no or bf16"):
        train("autoencoder", [image_folder], replace(recipe, precision="fp16"), tmp_path, max_steps=1)
    train("autoencoder", [image_folder], replace(recipe, precision="bf16"), tmp_path, max_steps=1)
