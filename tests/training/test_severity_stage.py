"""The loss of the severity encoder."""

from dataclasses import replace

import pytest
import torch

from flashdiffusion.data import ImageDataset
from flashdiffusion.data.crops import Crops
from flashdiffusion.priors import load_autoencoder
from flashdiffusion.severity import Severity, true_severity
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.severity import SeverityStage

WEIGHT = 0.05
LEVELS = torch.tensor([0.04, 0.25, 1.0, 4.0])


class Fixed(torch.nn.Module):
    """An encoder that says the same of every batch, whatever it sees."""

    def __init__(self, z_hat, log_var_map):
        super().__init__()
        self.z_hat, self.log_var_map = torch.nn.Parameter(z_hat), log_var_map

    def forward(self, y, known):
        return Severity(self.z_hat, LEVELS.clone().requires_grad_(), self.log_var_map)


def test_latents_are_encoded_once_and_go_with_their_images(tiny_model, image_folder, tmp_path, monkeypatch):
    stage = SeverityStage(get_recipe("tiny").severity, load_autoencoder(tiny_model / "autoencoder"))
    data = ImageDataset([image_folder], 32)
    kept, flip = stage.examples(data, tmp_path), torch.arange(4) % 2 == 0
    x = stage.mirrored(data.rows([0, 1, 2, 4]), flip)
    direct, _ = stage("severity", x, Draws(0, 0, 4, slice(0, 4), "cpu"))
    pair = stage.mirrored(kept.rows([0, 1, 2, 4]), flip)
    assert torch.equal(pair[0], x)
    monkeypatch.setattr(stage.autoencoder, "encode", None)  # not called again
    torch.testing.assert_close(stage.mirrored(kept.rows([0, 1, 2, 4]), flip)[1], pair[1])
    kept_loss, _ = stage("severity", pair, Draws(0, 0, 4, slice(0, 4), "cpu"))
    torch.testing.assert_close(kept_loss, direct, rtol=2e-3, atol=0)  # they are kept in half precision


def test_crops_are_encoded_as_they_come(tiny_model, image_folder, tmp_path):
    stage = SeverityStage(get_recipe("tiny").severity, load_autoencoder(tiny_model / "autoencoder"))
    data = Crops([image_folder], 32)
    assert stage.examples(data, tmp_path) is data


@pytest.mark.parametrize("head", ["log-variance", "paper"])
def test_an_images_error_is_measured_by_what_is_expected_of_it(tiny_model, head):
    config = replace(get_recipe("tiny").severity, image_weight=0.0, severity_weight=WEIGHT)
    stage = SeverityStage(config, load_autoencoder(tiny_model / "autoencoder"))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    z0 = stage.autoencoder.encode(x)
    z_hat = z0 + LEVELS.sqrt().view(-1, 1, 1, 1) * torch.randn(z0.shape, generator=torch.Generator().manual_seed(1))
    own = head == "log-variance"
    maps = LEVELS.log().view(-1, 1, 1).expand(-1, *z0.shape[2:]) if own else None
    stage.encoder = Fixed(z_hat, maps)
    loss, log = stage("severity", x, Draws(0, 0, 4, slice(0, 4), "cpu"))
    error, true = (z_hat - z0).square().flatten(1).mean(dim=1), true_severity(z_hat, z0)
    assert float(log["latent"]) == pytest.approx(float(error.mean()), rel=1e-5)
    rest = (LEVELS.log() - true.log()).square().mean() if own else (LEVELS - true).square().mean()
    fit = loss.detach() - WEIGHT * (rest + (log["local"] if own else 0))
    weights = 1 / LEVELS.sqrt() if own else torch.ones(4)
    assert float(fit) == pytest.approx(float((weights * error).mean()), rel=1e-4)
    loss.backward()
    expected = 2 * weights.view(-1, 1, 1, 1) * (z_hat - z0) / z_hat.numel()
    torch.testing.assert_close(stage.encoder.z_hat.grad, expected, rtol=1e-3, atol=1e-6)
