"""The paper's published severity encoders: ẑ and σ̂² as the original computes them, in the units of our latents."""

import pytest
import torch
import torch.nn.functional as F

import published.original as original
from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors import DiffusersAutoencoder, load_component, save_component
from flashdiffusion.published import load_published_severity
from flashdiffusion.published.first_stage import load_first_stage
from flashdiffusion.published.keymap import KeyMap
from flashdiffusion.severity import SeverityEncoder

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def _full(tensors):
    """As the training module leaves it: the encoder under `encoder.`, the frozen first stage beside it."""
    own = {f"encoder.{k}": v for k, v in tensors.items()}
    own |= {f"pretrained_autoencoder.{k}": v for k, v in original.make_first_stage().items()}
    return {"state_dict": own, "epoch": 9, "hyper_parameters": {"lr": 1e-4}, "optimizer_states": [{"state": {}}]}


def _light(tensors):
    return {"state_dict": tensors, "hyper_parameters": {"model_config": {"target": "x"}}}


@pytest.fixture
def y():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale_factor", [1.0, 0.3])
@pytest.mark.parametrize("wrap", [_full, _light])
@torch.no_grad()
def test_says_what_the_original_says(tmp_path, y, wrap, scale_factor):
    t = original.make_severity(attention=(2,), blocks=2)
    torch.save(wrap(t), tmp_path / "encoder.ckpt")
    encoder = load_published_severity(tmp_path / "encoder.ckpt", scale_factor=scale_factor)
    z, var = original.severity(t, 2 * y - 1, 3, 2)
    found = encoder(y)
    torch.testing.assert_close(found.z_hat, scale_factor * z, **CLOSE)
    torch.testing.assert_close(found.var, scale_factor**2 * var, **CLOSE)
    assert float(var.min()) > 1e-3 and encoder.config.head == "paper"


@torch.no_grad()
def test_an_untrained_one_gives_the_first_stages_own_latents(tmp_path, y):
    """A severity encoder with the first stage's weights gives E0(y) of the prior, scale factor included."""
    first = original.make_first_stage()
    t = {k: v for k, v in first.items() if k.startswith(("encoder.", "quant_conv."))}
    std_conv = {"std_conv.weight": torch.ones(3, 3, 1, 1), "std_conv.bias": torch.zeros(3)}
    torch.save(t | std_conv, tmp_path / "encoder_light.ckpt")
    autoencoder = DiffusersAutoencoder(load_first_stage(KeyMap(first, "it"), 0.6, None))
    encoder = load_published_severity(tmp_path / "encoder_light.ckpt", scale_factor=0.6)
    torch.testing.assert_close(encoder(y).z_hat, autoencoder.encode(y), **CLOSE)


@torch.no_grad()
def test_survives_a_round_trip(tmp_path, y):
    torch.save(original.make_severity(), tmp_path / "encoder.ckpt")
    encoder = load_published_severity(tmp_path / "encoder.ckpt")
    save_component(encoder, tmp_path / "saved")
    again = load_component(SeverityEncoder, tmp_path / "saved")
    assert torch.equal(again(y).var, encoder(y).var) and torch.equal(again(y).z_hat, encoder(y).z_hat)
    again = SeverityEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(y).var, encoder(y).var)


def _without(key):
    return {k: v for k, v in original.make_severity().items() if k != key}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (_without("std_conv.weight"), "has 0 keys std_conv.weight; expected one"),
        (_without("std_conv.bias"), "has no key std_conv.bias"),
        (_without("quant_conv.weight"), "has no key quant_conv.weight"),
        (_without("encoder.mid.block_2.norm1.bias"), "has no key encoder.mid.block_2.norm1.bias"),
        (_without("encoder.conv_in.weight"), "has no key encoder.conv_in.weight"),
        (original.make_severity() | {"surplus": torch.zeros(2)}, "has a key surplus"),
        (original.make_severity() | {"quant_conv.bias": torch.zeros(4)}, "quant_conv.bias has shape"),
        (original.make_severity() | {"std_conv.weight": torch.zeros(4, 3, 1, 1)}, "std_conv.weight has shape"),
        ({f"encoder.{k}": v for k, v in original.make_severity().items()} | {"head.bias": torch.zeros(2)}, "head.bias"),
        (original.make_first_stage(), "has 0 keys std_conv.weight"),
    ],
)
def test_what_is_no_severity_encoder_is_told(tmp_path, tensors, reason):
    path = tmp_path / "encoder.ckpt"
    torch.save({"state_dict": tensors}, path)
    with pytest.raises(CheckpointError) as caught:
        load_published_severity(path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("scale_factor", [0.0, -1.0, float("nan")])
def test_a_scale_factor_that_is_none_is_told(tmp_path, scale_factor):
    torch.save(original.make_severity(), tmp_path / "encoder.ckpt")
    with pytest.raises(CheckpointError, match="expected a positive number"):
        load_published_severity(tmp_path / "encoder.ckpt", scale_factor)


def test_the_reference_squares_before_it_averages(y):
    """σ̂² is a mean of squares over places and channels, computed once more in the plainest way."""
    t = original.make_severity()
    with torch.no_grad():
        z, var = original.severity(t, 2 * y - 1, 3, 1)
        s = F.conv2d(z, t["std_conv.weight"], t["std_conv.bias"])
    torch.testing.assert_close(var, torch.stack([(row * row).sum() / row.numel() for row in s]))
