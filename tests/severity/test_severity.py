import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.priors import DiffusersAutoencoder, load_component
from flashdiffusion.severity import SeverityEncoder, map_picture, ordering_accuracy, true_severity

LAYOUT = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
}


def _kl() -> DiffusersAutoencoder:
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.3, -0.2, 0.1, 0.0], "latents_std": [0.5, 1.5, 2.0, 1.0], "scaling_factor": 1.0}
    return DiffusersAutoencoder(AutoencoderKL(**LAYOUT, latent_channels=4, **statistics)).eval()


def _vq() -> DiffusersAutoencoder:
    torch.manual_seed(0)
    return DiffusersAutoencoder(VQModel(**LAYOUT, latent_channels=3, num_vq_embeddings=16, scaling_factor=0.5)).eval()


def _y(count=3):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [_kl, _vq])
@pytest.mark.parametrize("head", ["log-variance", "paper"])
@torch.no_grad()
def test_starts_as_the_autoencoders_encoder(make, head):
    autoencoder = make()
    encoder = SeverityEncoder.from_autoencoder(autoencoder, head).eval()
    severity = encoder(_y())
    torch.testing.assert_close(severity.z_hat, autoencoder.encode(_y()), atol=1e-5, rtol=1e-5)
    assert severity.var.shape == (3,)
    assert bool((severity.var >= 0).all())


@torch.no_grad()
def test_paper_head_is_the_papers_formula():
    encoder = SeverityEncoder.from_autoencoder(_kl(), "paper").eval()
    severity = encoder(_y())
    expected = encoder.var_conv(severity.z_hat).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(severity.var, expected)


@pytest.mark.parametrize("head", ["log-variance", "paper"])
@torch.no_grad()
def test_an_images_severity_does_not_depend_on_the_batch(head):
    encoder = SeverityEncoder.from_autoencoder(_kl(), head).eval()
    together = encoder(_y())
    for row in range(3):
        alone = encoder(_y()[row : row + 1])
        torch.testing.assert_close(alone.var[0], together.var[row])
        torch.testing.assert_close(alone.z_hat[0], together.z_hat[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_saves_and_loads(tmp_path):
    encoder = SeverityEncoder.from_autoencoder(_kl()).eval()
    encoder.save_pretrained(tmp_path)
    assert [p.suffix for p in tmp_path.iterdir() if p.suffix != ".json"] == [".safetensors"]
    again = load_component(SeverityEncoder, tmp_path)
    assert torch.equal(again(_y()).var, encoder(_y()).var)
    with pytest.raises(CheckpointError, match="expected AutoencoderKL"):
        load_component(AutoencoderKL, tmp_path)


def test_refuses_an_unknown_head():
    with pytest.raises(InputError, match="log-variance"):
        SeverityEncoder.from_autoencoder(_kl(), "logvariance")


def test_true_severity_is_the_sample_variance_of_the_error():
    generator = torch.Generator().manual_seed(0)
    z0, error = (torch.randn(2, 4, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    shifted = z0 + torch.tensor([0.1, 2.0]).view(2, 1, 1, 1) * error + 5.0  # a common offset does not count
    e = (shifted - z0).flatten(1)
    expected = (e - e.mean(1, keepdim=True)).square().sum(1) / (e.shape[1] - 1)
    torch.testing.assert_close(true_severity(shifted, z0), expected)
    torch.testing.assert_close(expected, torch.tensor([0.01, 4.0], dtype=torch.float64), rtol=0.05, atol=0)


def test_pictures_of_maps_share_one_scale():
    """Each variance has its colour, whatever else is in the map; from a standard deviation of 1 on it is the same."""
    variance = torch.tensor([[0.0, 0.09], [1.0, 9.0]])
    picture = map_picture(variance, (2, 2))
    alone = [map_picture(value.view(1, 1), (1, 1)) for value in variance.flatten()]
    assert torch.equal(picture.flatten(1), torch.cat(alone, dim=2)[:, 0])
    assert torch.equal(picture[:, 1, 0], picture[:, 1, 1])
    brightness = picture.mean(dim=0).flatten()[:3]
    assert bool((brightness.diff() > 0).all())
    assert map_picture(variance, (6, 8)).shape == (3, 6, 8)


def test_ordering_accuracy_counts_ordered_pairs():
    severities = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 1, 1, 1], [2, 1, 3, 4]])
    torch.testing.assert_close(ordering_accuracy(severities), torch.tensor([1.0, 0.0, 0.0, 5 / 6]))
    with pytest.raises(InputError, match="levels"):
        ordering_accuracy(torch.zeros(3, 1))
