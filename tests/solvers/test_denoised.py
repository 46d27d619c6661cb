from types import SimpleNamespace

import pytest
import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.errors import UnsuitedError
from flashdiffusion.physics import Denoising, GaussianBlur, RandomInpainting
from flashdiffusion.priors import IdentityAutoencoder, PatchAutoencoder
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.denoised import Denoised
from toy import ToyPrior


def _toy(keeps: bool = True) -> ToyPrior:
    prior = ToyPrior(dtype=torch.float32)
    prior.autoencoder = SimpleNamespace(keeps_white_noise=keeps)
    return prior


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


@pytest.mark.parametrize(
    ("keeps", "physics", "message"),
    [
        (False, Denoising(0.1), "needs latents in which white noise stays white"),
        (True, GaussianBlur(1.0, noise_std=0.1), "not for gaussian-blur"),
        (True, RandomInpainting(torch.ones(1, 1, 16, 16), noise_std=0.1), "not for random-inpainting"),
        (True, None, "with a noise_std that is known"),
    ],
)
def test_where_it_is_not_the_posterior_mean_it_says_so(keeps, physics, message):
    prior, problem = _toy(keeps), Problem(torch.rand(1, 3, 16, 16), physics)
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
