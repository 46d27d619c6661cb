"""Distances between the images of a run and the true ones, from features of each image that any process can make."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save, save_file
from scipy.linalg import sqrtm
from torch import nn

from flashdiffusion.errors import InputError
from flashdiffusion.metrics import LPIPS, Distributions, distances, frechet
from flashdiffusion.metrics import distribution as module
from flashdiffusion.metrics.distribution import Frechet
from lpips_weights import lpips_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alex.safetensors"
    save_file(lpips_weights("alex"), path)
    return {"lpips": path}


def _features(count, d=8, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(count, d, generator=generator, dtype=torch.float64) @ mixing + shift


def test_it_is_frechets_distance_in_whatever_parts_they_come():
    a, b = _features(50, shift=1.0), _features(50, seed=1)
    covariances = [np.cov(one.numpy().T) for one in (a, b)]
    expected = float((a.mean(0) - b.mean(0)).square().sum())
    expected += float(np.trace(sum(covariances)) - 2 * np.trace(sqrtm(covariances[0] @ covariances[1]).real))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    parts = Frechet(8)
    for first in range(0, 50, 7):
        parts.update(a[first : first + 7], b[first : first + 7])
    assert parts.compute() == pytest.approx(expected, rel=1e-9) and parts.images == 50
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_large_features_lose_nothing_to_their_mean():
    """Sums of squares in float32 would be off by more than the distance."""
    a, b = _features(50), _features(50, seed=1)
    assert frechet(a.float() + 1000, b.float() + 1000) == pytest.approx(frechet(a, b), rel=1e-3)


def test_a_run_has_a_distance_from_more_images_than_features():
    a, b = _features(10, shift=1.0), _features(10, seed=1)
    seen = [{"fd": torch.stack(pair).half()} for pair in zip(a, b, strict=True)]
    found = distances(iter(seen))["fd"]
    assert found.images == 10 and found.missing is None
    assert found.value == pytest.approx(frechet(a, b), rel=1e-2), "float16 is enough"
    few = distances(seen[:8])["fd"]
    assert few.value is None and few.images == 8 and few.missing == "fd needs 9 images, got 8"
    assert distances([]) == {}


def test_shards_and_orders_give_the_same():
    seen = [{"fd": torch.stack(pair)} for pair in zip(_features(30), _features(30, seed=1), strict=True)]
    sent = [load(save(one)) for one in reversed(seen)]
    assert distances(sent)["fd"].value == pytest.approx(distances(seen)["fd"].value, rel=1e-9)


def test_fd_alex_sees_the_last_layer_averaged_over_places(weights):
    found = Distributions(["fd_alex"], weights)
    assert not found.missing
    x, y = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    features = found.features(x, y)["fd_alex"]
    assert features.shape == (2, 256) and features.dtype == torch.float16
    expected = LPIPS.load(weights["lpips"])._maps(torch.stack([x, y]))[-1].mean(dim=(2, 3))
    torch.testing.assert_close(features, expected.half())
    assert found.features(x[:, :30], y[:, :30]) == {}, "too small for AlexNet"


def test_those_that_cannot_be_had_are_named_with_the_reason(weights, tmp_path, monkeypatch):
    save_file(lpips_weights("squeeze"), tmp_path / "squeeze.safetensors")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    both = Distributions(["fid", "fd_alex"])
    assert both.missing["fd_alex"].startswith("fd_alex: it needs the LPIPS weights of alex")
    assert both.missing["fid"] == "fid: it needs torch-fidelity: pip install torch-fidelity"
    assert both.features(*torch.rand(2, 3, 40, 40)) == {}
    other = Distributions(["fd_alex"], {"lpips": tmp_path / "squeeze.safetensors"})
    assert other.missing["fd_alex"].endswith("squeeze.safetensors is squeeze")
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    assert f"no Inception weights at {tmp_path}/checkpoints/weights-inception" in Distributions(["fid"]).missing["fid"]
    assert not Distributions([], weights).missing, "not asked for"
    with pytest.raises(InputError, match="unknown metric of runs 'fdi'; did you mean fid"):
        Distributions(["fdi"])


def test_fid_gives_inception_images_of_8_bits(tmp_path, monkeypatch):
    class Inception(nn.Module):
        def __init__(self, name, layers, path):
            super().__init__()
            assert (name, layers) == ("inception-v3-compat", ["2048"])
            self.weight = torch.load(path, weights_only=True)["weight"]

        def forward(self, x):
            assert x.dtype == torch.uint8
            return self.weight * x.float().mean(dim=(2, 3))

    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Inception)
    torch.save({"weight": torch.tensor(2.0)}, tmp_path / "inception.pth")
    found = Distributions(["fid"], {"fid": tmp_path / "inception.pth"})
    features = found.features(torch.full((3, 40, 40), 99.8 / 255), torch.ones(3, 40, 40))["fid"]
    assert features.tolist() == [[200.0] * 3, [510.0] * 3]
    (tmp_path / "bad.pth").write_text("no")
    assert "not the Inception weights" in Distributions(["fid"], {"fid": tmp_path / "bad.pth"}).missing["fid"]
