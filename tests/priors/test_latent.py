"""Predictions of ε, v and z0 agree on one exact Gaussian; the identity autoencoder is a pixel prior."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from flashdiffusion.errors import InputError
from flashdiffusion.priors import IdentityAutoencoder, LatentPrior
from toy import COMPVIS

STD = 0.6


def _unet(**changes) -> UNet2DModel:
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    arguments = {"in_channels": 3, "out_channels": 3, "block_out_channels": [8, 8], "norm_num_groups": 4, **blocks}
    return UNet2DModel(**(arguments | changes))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_predictions_agree_on_an_exact_gaussian(prediction, monkeypatch):
    prior = LatentPrior(IdentityAutoencoder(), _unet(), DDPMScheduler(**COMPVIS, prediction_type=prediction))
    abar = prior.schedule.abar

    def exact(z, timestep):
        a2 = abar[timestep + 1].view(-1, 1, 1, 1)
        z0 = a2.sqrt() * STD**2 / (a2 * STD**2 + 1 - a2) * z
        eps = (z - a2.sqrt() * z0) / (1 - a2).sqrt()
        output = {"sample": z0, "epsilon": eps, "v_prediction": a2.sqrt() * eps - (1 - a2).sqrt() * z0}[prediction]
        return SimpleNamespace(sample=output.float())

    monkeypatch.setattr(prior.denoiser, "forward", exact)
    z = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    i = torch.tensor([10, 300, 900])
    a2 = abar[i].view(-1, 1, 1, 1)
    expected = a2.sqrt() * STD**2 / (a2 * STD**2 + 1 - a2) * z
    torch.testing.assert_close(prior.denoise(z, i), expected.float(), atol=2e-4, rtol=1e-3)


def test_identity_autoencoder_is_a_pixel_prior(tmp_path):
    prior = LatentPrior(IdentityAutoencoder(), _unet(), DDPMScheduler(**COMPVIS))
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert prior.latent_shape((16, 16)) == (3, 16, 16)
    torch.testing.assert_close(prior.encode(x), 2 * x - 1)
    torch.testing.assert_close(prior.decode(prior.encode(x)), x)
    prior.save_pretrained(tmp_path)
    again = LatentPrior.from_pretrained(tmp_path)
    assert isinstance(again.autoencoder, IdentityAutoencoder)
    i = torch.tensor([1, 500])
    assert torch.equal(again.denoise(x, i), prior.denoise(x, i))


def test_of_a_learned_variance_only_the_prediction_is_used():
    """Twice the channels out: the first half is ε."""
    torch.manual_seed(0)
    wide, narrow = _unet(out_channels=6), _unet()
    tensors = wide.state_dict()
    narrow.load_state_dict(tensors | {f"conv_out.{p}": tensors[f"conv_out.{p}"][:3] for p in ("weight", "bias")})
    scheduler = DDPMScheduler(**COMPVIS, variance_type="learned_range")
    z, i = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 700])
    expected = LatentPrior(IdentityAutoencoder(), narrow, scheduler).denoise(z, i)
    torch.testing.assert_close(LatentPrior(IdentityAutoencoder(), wide, scheduler).denoise(z, i), expected)


def test_refuses_denoisers_that_do_not_fit():
    with pytest.raises(InputError, match=r"5 out .*expected equal numbers, or twice as many out"):
        LatentPrior(IdentityAutoencoder(), _unet(out_channels=5), DDPMScheduler(**COMPVIS))
    with pytest.raises(InputError, match=r"6 channels in and 6 out"):
        LatentPrior(IdentityAutoencoder(), _unet(in_channels=6, out_channels=6), DDPMScheduler(**COMPVIS))
    with pytest.raises(InputError, match="prediction type"):
        scheduler = DDPMScheduler(**COMPVIS)
        scheduler.register_to_config(prediction_type="flow")
        LatentPrior(IdentityAutoencoder(), _unet(), scheduler)
