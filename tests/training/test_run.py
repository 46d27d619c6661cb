"""`train` end to end: the folder it leaves is a model."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import VQModel

from flashdiffusion import FlashPipeline, GaussianBlur
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.priors import load_component
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import make_stage, train, with_severity, with_space
from logs import read_log


def _without_severity(model, out):
    """A copy of a model in which that stage, and whatever training left, is still to come."""
    shutil.copytree(model, out)
    shutil.rmtree(out / "severity_encoder")
    for file in out.glob("*.ckpt"):
        file.unlink()


def test_all_stages_leave_a_folder_that_loads_and_restores(tiny_model, image_folder):
    out = tiny_model
    assert json.loads((out / "model_index.json").read_text())["sample_size"] == 32
    folders = {"autoencoder", "denoiser", "scheduler", "severity_encoder", "regressor"}
    assert {p.name for p in out.iterdir() if p.is_dir()} == folders
    pipeline = FlashPipeline.from_pretrained(out)
    x = ImageDataset([image_folder], 32).batch(range(3))
    physics = GaussianBlur([0.5, 1.0, 2.0], 0.05)
    result = pipeline(physics(x, torch.Generator().manual_seed(0)), physics, settings=Settings(steps=20))
    assert result.images.shape == x.shape
    assert float(result.images.min()) >= 0 and float(result.images.max()) <= 1
    levels = pipeline.prior.schedule.geometric(20).times
    assert torch.equal(levels[result.nfe], result.start_step) and bool((result.severity > 0).all())


def test_the_latents_of_the_training_images_are_standardised(tiny_model, image_folder):
    prior = FlashPipeline.from_pretrained(tiny_model).prior
    with torch.no_grad():
        z = prior.encode(ImageDataset([image_folder], 32).batch(range(12)))
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(8), atol=1e-3, rtol=0)


def test_a_stage_alone_completes_the_folder_with_the_others_there(tmp_path, image_folder, recipe):
    for stage in ("autoencoder", "severity"):
        train(stage, [image_folder], recipe, tmp_path, max_steps=1)
        assert not (tmp_path / "model_index.json").exists()
    train("denoiser", [image_folder], recipe, tmp_path, max_steps=1)
    assert FlashPipeline.from_pretrained(tmp_path).sample_size == 32


def test_the_paper_s_head_is_trained_and_saved(tmp_path, image_folder, recipe, tiny_model):
    changed = with_severity(recipe, "paper", "random-inpainting", "0.1")
    severity = changed.severity
    assert (severity.head, severity.task, severity.noise_std) == ("paper", "random-inpainting", (0.1, 0.1))
    assert severity.severity_weight == 10.0
    _without_severity(tiny_model, tmp_path / "model")
    out = train("severity", [image_folder], changed, tmp_path / "model", max_steps=1)
    assert FlashPipeline.from_pretrained(out).severity_encoder.config.head == "paper"


def test_what_is_trained_for_a_model_is_trained_at_its_size(tmp_path, image_folder, recipe, tiny_model):
    """And the model keeps the size, whatever the recipe says."""
    _without_severity(tiny_model, tmp_path / "model")
    seen = []

    class Noting(ImageDataset):
        def __init__(self, data, side, *more):
            seen.append(side)
            super().__init__(data, side, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flashdiffusion.training.run.ImageDataset", Noting)
        out = train("severity", [image_folder], replace(recipe, size=16), tmp_path / "model", max_steps=1)
    assert seen == [32] and FlashPipeline.from_pretrained(out).sample_size == 32


def test_severity_training_goes_on_from_another_model(tmp_path, image_folder, recipe, tiny_model):
    """With more refining layers than that model has, which start as the identity: the same answers before any step."""
    first = FlashPipeline.from_pretrained(tiny_model)
    fewer = replace(recipe, severity=replace(recipe.severity, refine_layers=0))
    shutil.copytree(tiny_model / "autoencoder", tmp_path / "small" / "autoencoder")
    train("severity", [image_folder], fewer, tmp_path / "small", max_steps=1)
    shutil.copytree(tiny_model / "autoencoder", tmp_path / "large" / "autoencoder")
    train("denoiser", [image_folder], fewer, tmp_path / "small", max_steps=1)
    stage = make_stage("severity", recipe, tmp_path / "large", init=tmp_path / "small")
    small = load_component(SeverityEncoder, tmp_path / "small" / "severity_encoder")
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    a, b = stage.encoder.eval()(y), small(y)
    torch.testing.assert_close(a.z_hat, b.z_hat)
    torch.testing.assert_close(a.var, b.var)
    with pytest.raises(InputError, match="cannot start from this severity encoder"):
        small.start_from(first.severity_encoder)


def test_denoiser_training_goes_on_from_another_model(tmp_path, image_folder, recipe, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "first")
    shutil.copytree(tiny_model / "autoencoder", tmp_path / "second" / "autoencoder")
    stage = make_stage("denoiser", recipe, tmp_path / "second", init=tmp_path / "first")
    first = FlashPipeline.from_pretrained(tmp_path / "first").prior.denoiser.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in stage.prior.denoiser.state_dict().items())
    scheduled = replace(recipe.denoiser, schedule=recipe.denoiser.schedule | {"beta_end": 0.02})
    with pytest.raises(InputError, match="another noise schedule"):
        make_stage("denoiser", replace(recipe, denoiser=scheduled), tmp_path / "second", init=tmp_path / "first")
    with pytest.raises(InputError, match="leave it out for the autoencoder"):
        train("autoencoder", [image_folder], recipe, tmp_path / "second", max_steps=1, init=tmp_path / "first")


def test_a_denoiser_of_pixels_goes_on_from_another_too(tmp_path, image_folder, recipe):
    pixels = with_space(recipe, "pixel")
    train("denoiser", [image_folder], pixels, tmp_path, max_steps=1)
    stage = make_stage("denoiser", pixels, tmp_path / "second", init=tmp_path)
    first = FlashPipeline.from_pretrained(tmp_path).prior.denoiser.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in stage.prior.denoiser.state_dict().items())


def test_half_of_the_times_are_where_restorations_run(recipe, tmp_path, tiny_model):
    shutil.copytree(tiny_model / "autoencoder", tmp_path / "autoencoder")
    stage = make_stage("denoiser", recipe, tmp_path)
    times = stage._times(Draws(0, 0, 4000, slice(None), "cpu"))
    assert times.min() >= 1 and times.max() == 1000
    assert 0.62 < float((times <= 300).float().mean()) < 0.68  # a half, and three tenths of the other


def test_a_severity_encoder_is_trained_for_a_vq_autoencoder(tmp_path, image_folder, recipe, tiny_model):
    """As a converted latent-diffusion model has one."""
    _without_severity(tiny_model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "autoencoder")
    torch.manual_seed(0)
    vq = VQModel(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        num_vq_embeddings=32,
        norm_num_groups=4,
        scaling_factor=1.0,
    )
    vq.save_pretrained(tmp_path / "model" / "autoencoder")
    shutil.rmtree(tmp_path / "model" / "regressor")
    out = train("severity", [image_folder], recipe, tmp_path / "model", max_steps=1)
    pipeline = FlashPipeline.from_pretrained(out)
    assert isinstance(pipeline.prior.autoencoder.model, VQModel)
    assert bool((pipeline.severity(torch.rand(2, 3, 32, 32)).var > 0).all())


def test_a_recipe_with_nothing_changed_is_the_same(recipe):
    assert with_severity(recipe, None, None, None) == recipe


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("papr", None, None), "unknown severity head 'papr'; did you mean paper"),
        ((None, "gaussian-bl", None), "unknown task 'gaussian-bl'; did you mean gaussian-blur"),
        ((None, None, "-0.1"), "noise std is -0.1; expected a finite number >= 0"),
        ((None, None, "nan"), "noise std is nan; expected a finite number >= 0"),
        ((None, None, "0.2:0.1"), "noise std is 0.2:0.1; expected a finite number >= 0, or a range"),
        ((None, None, "low"), "noise std is 'low'; expected a number, or a range such as 0:0.2"),
    ],
)
def test_a_severity_stage_that_cannot_be_is_refused_before_any_training(recipe, change, reason):
    with pytest.raises(InputError, match=reason):
        with_severity(recipe, *change)


@pytest.mark.parametrize(("stage", "hint"), [("denoise", "denoiser"), ("autoencoders", "autoencoder")])
def test_an_unknown_stage_is_refused(tmp_path, image_folder, recipe, stage, hint):
    with pytest.raises(InputError, match=f"unknown stage '{stage}'; did you mean {hint}"):
        train(stage, [image_folder], recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_is_refused():
    with pytest.raises(InputError, match="unknown config 'tny'; did you mean tiny"):
        get_recipe("tny")


@pytest.mark.parametrize("stage", ["denoiser", "severity"])
def test_the_later_stages_need_the_autoencoder(tmp_path, image_folder, recipe, stage):
    with pytest.raises(InputError, match="has no trained autoencoder; run `flashdiffusion train autoencoder`"):
        train(stage, [image_folder], recipe, tmp_path)


def test_fewer_images_than_a_batch_are_enough(tmp_path, image_folder, recipe):
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=2, limit=1)
    assert [row["step"] for row in read_log(tmp_path / "autoencoder.csv")] == [1, 2]
