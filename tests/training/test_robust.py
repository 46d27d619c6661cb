"""What goes wrong in a run: damaged images, gradients that are not finite, other settings on resuming."""

import errno
import shutil
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.priors import IdentityAutoencoder
from flashdiffusion.training import loop, setup
from flashdiffusion.training.autoencoder import AutoencoderStage
from flashdiffusion.training.denoiser import DenoiserStage
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


def test_no_step_is_begun_that_would_end_after_the_time_box(tmp_path, monkeypatch, image_folder, recipe):
    steps = []
    step = loop._Training._train_step

    def slow(self, x, progress):
        steps.append(self.seconds)
        time.sleep(0.6)
        return step(self, x, progress)

    monkeypatch.setattr(loop._Training, "_train_step", slow)
    train("autoencoder", [image_folder], recipe, tmp_path, max_minutes=1 / 60)
    assert len(steps) == 1


def test_ctrl_c_ends_after_the_step_with_its_checkpoint(tmp_path, monkeypatch, image_folder, recipe, capsys):
    step = loop._Training._train_step

    def interrupted(self, x, progress):
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, x, progress)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Training, "_train_step", interrupted)
        train("autoencoder", [image_folder], recipe, tmp_path, max_steps=5)
    assert "interrupted: the checkpoint of step 3" in capsys.readouterr().err
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=5, resume=True)
    assert (tmp_path / "autoencoder" / "config.json").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, image_folder, recipe, error):
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=2)
    before = (tmp_path / "autoencoder.ckpt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="cannot write the checkpoint"):
        train("autoencoder", [image_folder], recipe, tmp_path, max_steps=4, resume=True)
    assert (tmp_path / "autoencoder.ckpt").read_bytes() == before
    assert not list(tmp_path.glob("*tmp*"))


def test_training_without_the_instructions_is_in_float32(tmp_path, monkeypatch, image_folder, recipe, capsys):
    monkeypatch.setattr(setup, "is_fast", lambda dtype, device: False)
    train("autoencoder", [image_folder], replace(recipe, precision="bf16"), tmp_path, max_steps=1)
    assert "no bfloat16 instructions" in capsys.readouterr().err


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_denoiser_learns_what_its_scheduler_says(recipe, prediction):
    schedule = recipe.denoiser.schedule | {"prediction_type": prediction}
    model = recipe.denoiser.model | {"in_channels": 3, "out_channels": 3}
    stage = DenoiserStage(replace(recipe.denoiser, schedule=schedule, model=model), IdentityAutoencoder())
    generator = torch.Generator().manual_seed(0)
    z0, noise = torch.randn(2, 2, 3, 8, 8, generator=generator)
    i = torch.tensor([100, 700])
    abar = stage.prior.abar[i].view(-1, 1, 1, 1)
    target = stage._target(z0, noise, abar)
    z = abar.sqrt() * z0 + (1 - abar).sqrt() * noise
    stage.prior.denoiser.forward = lambda *_: SimpleNamespace(sample=target)  # a network that has learned it
    torch.testing.assert_close(stage.prior.denoise(z, i), z0, atol=1e-3, rtol=0)
