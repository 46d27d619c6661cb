import json

import pytest
import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.errors import UnsuitedError
from flashdiffusion.physics import Denoising, GaussianBlur, RandomInpainting
from flashdiffusion.priors import IdentityAutoencoder, PatchAutoencoder
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.denoised import Denoised
from local_model import local_pipeline
from toy import ToyPrior


def _toy() -> ToyPrior:
    return ToyPrior(dtype=torch.float32)


def _noisy(std: list[float], size: tuple[int, int] = (16, 16)) -> tuple[torch.Tensor, Denoising]:
    generator = torch.Generator().manual_seed(0)
    physics = Denoising(std)
    return physics(torch.rand(len(std), 3, *size, generator=generator), generator), physics


def test_one_look_is_the_posterior_mean_of_each_image():
    prior = _toy()
    y, physics = _noisy([0.02, 0.1, 0.4])
    start = Denoised()(Problem(y, physics), prior, prior.schedule.grid(10), torch.zeros(3, 12, 8, 8))
    variance = torch.tensor([0.02, 0.1, 0.4]).mul(2).square().view(-1, 1, 1, 1)
    mean = prior.std**2 / (prior.std**2 + variance) * prior.encode(y)
    torch.testing.assert_close(start.z, mean, rtol=0.02, atol=0.01)
    assert start.k.tolist() == [0, 0, 0]
    assert start.nfe.tolist() == [1, 1, 1]


def test_an_image_without_noise_is_kept():
    prior = _toy()
    y, physics = _noisy([0.0])
    start = Denoised()(Problem(y, physics), prior, prior.schedule.grid(10), torch.zeros(1, 12, 8, 8))
    torch.testing.assert_close(prior.decode(start.z), y, rtol=0, atol=0.01)


def test_a_model_whose_latents_colour_noise_cannot_have_it(tiny_pipeline):
    with pytest.raises(UnsuitedError, match="needs latents in which white noise stays white"):
        tiny_pipeline(torch.rand(1, 3, 32, 32), Denoising(0.1), method="denoise")


def test_evaluate_leaves_out_the_tasks_that_it_is_not_for(flash, tiny_photos, image_folder, tmp_path):
    options = ("--data", image_folder, "--model", tiny_photos, "--limit", 1, "--out", tmp_path / "out")
    ended = flash("evaluate", *options, "--task", "denoising", "--task", "gaussian-blur", "--method", "denoise")
    assert ended.code == 0, ended.err
    assert "denoise is for physics denoising, and task gaussian-blur has gaussian-blur" in ended.out + ended.err
    record = json.loads((tmp_path / "out" / "denoising--denoise.json").read_text())["records"][0]
    assert record["nfe"] == 1 and "severity" not in record


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        (GaussianBlur(1.0, noise_std=0.1), "not for gaussian-blur"),
        (RandomInpainting(torch.ones(1, 1, 16, 16), noise_std=0.1), "not for random-inpainting"),
        (None, "with a noise_std that is known"),
    ],
)
def test_where_it_is_not_the_posterior_mean_it_says_so(physics, message):
    prior, problem = _toy(), Problem(torch.rand(1, 3, 16, 16), physics)
    with pytest.raises(UnsuitedError, match=message):
        Denoised()(problem, prior, prior.schedule.grid(10), torch.zeros(1, 12, 8, 8))


def test_which_latents_keep_white_noise(tiny_pipeline):
    assert IdentityAutoencoder().keeps_white_noise
    assert PatchAutoencoder(2).keeps_white_noise
    assert not PatchAutoencoder(1, std=[1.0, 2.0, 1.0]).keeps_white_noise
    assert not tiny_pipeline.prior.autoencoder.keeps_white_noise


def test_a_photograph_of_any_size_is_denoised_in_one_evaluation(tiny_photos):
    pipe = FlashPipeline.from_pretrained(tiny_photos)
    y, physics = _noisy([0.1, 0.05], (33, 41))
    restoration = pipe(y, physics, method="denoise")
    assert restoration.images.shape == y.shape
    assert restoration.nfe.tolist() == [1, 1]
    alone = pipe(y[1:], physics.take(torch.tensor([1])), method="denoise").images
    torch.testing.assert_close(restoration.images[1:], alone, rtol=0, atol=1e-5)


def test_half_precision_changes_a_result_by_little():
    y, physics = _noisy([0.1], (32, 32))
    full, half = (local_pipeline().to(dtype=dtype)(y, physics, method="denoise") for dtype in (None, torch.bfloat16))
    assert half.images.dtype == torch.float32 and not torch.equal(half.images, full.images)
    torch.testing.assert_close(half.images, full.images, rtol=0, atol=0.05)
    assert float((half.images - full.images).abs().mean()) < 0.005
