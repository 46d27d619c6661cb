"""LPIPS of three networks: what it computes, and where its weights come from."""

import json
import os
from importlib.resources import files
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from flashdiffusion.errors import CheckpointError
from flashdiffusion.metrics import LPIPS, Metrics
from flashdiffusion.metrics.backbones import BACKBONES
from lpips_weights import backbone_weights, lpips_weights, package_weights

NETS = [*BACKBONES]


def _pair(count=3, size=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, size, size, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    return x, x + torch.tensor([0.01, 0.1, 0.3]).view(-1, 1, 1, 1) * noise


@pytest.mark.parametrize("net", NETS)
def test_it_recognises_its_network_and_is_a_distance(net, tmp_path):
    save_file(lpips_weights(net), tmp_path / "lpips.safetensors")
    lpips = LPIPS.load(tmp_path / "lpips.safetensors")
    assert lpips.net == net
    x, y = _pair()
    values = lpips(y, x)
    torch.testing.assert_close(lpips(x, x), torch.zeros(3))
    torch.testing.assert_close(values, lpips(x, y))
    torch.testing.assert_close(lpips(y[2:], x[2:]), values[2:])
    assert bool((values.diff() > 0).all()), "more noise is further away"
    y = y.requires_grad_()
    lpips(y, x).sum().backward()
    assert y.grad is not None and bool(y.grad.isfinite().all())


@pytest.mark.parametrize("net", NETS)
def test_it_compares_the_outputs_of_relus_with_a_head_for_each(net):
    lpips = LPIPS(net)
    maps = lpips._maps(torch.rand(1, 3, 64, 64))
    assert all(float(one.min()) == 0 for one in maps)
    assert [one.shape[1] for one in maps] == [head.weight.shape[1] for head in lpips.heads]
    sides = {"alex": [15, 7, 3, 3, 3], "squeeze": [31, 15, 7, 3, 3, 3, 3], "vgg": [64, 32, 16, 8, 4]}
    assert [one.shape[2] for one in maps] == sides[net]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("layout", [lpips_weights, package_weights])
def test_files_of_torch_in_either_layout(net, layout, tmp_path):
    torch.save(layout(net), tmp_path / "lpips.pth")
    loaded = LPIPS.load(tmp_path / "lpips.pth")
    assert loaded.net == net
    expected = lpips_weights(net)
    assert torch.equal(loaded.features[0].weight, expected["features.0.weight"])
    assert all(torch.equal(head.weight, expected[f"lin{i}.weight"]) for i, head in enumerate(loaded.heads))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.safetensors; give a file.*alex, squeeze, vgg"):
        LPIPS.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="no LPIPS weights at vgg19"):
        LPIPS.load("vgg19")
    for suffix, kind in (("safetensors", "safetensors file"), ("pth", "file of torch")):
        (tmp_path / f"text.{suffix}").write_text("no")
        with pytest.raises(CheckpointError, match=f"not a {kind}"):
            LPIPS.load(tmp_path / f"text.{suffix}")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    save_file(lpips_weights("alex") | {"more": torch.zeros(1)}, tmp_path / "more.safetensors")
    for name in ("other.safetensors", "tensor.pth", "more.safetensors"):
        with pytest.raises(CheckpointError, match="not LPIPS weights of alex, squeeze, vgg"):
            LPIPS.load(tmp_path / name)


def test_a_file_of_torch_is_never_executed(tmp_path):
    torch.save({"features.0.weight": _Runs(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="not a file of torch"):
        LPIPS.load(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


class _Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# -- by the network's name ---------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's hub folder, in which nothing is, beside a network that is not there."""

    def download(url, path, hash_prefix=None, progress=True):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("net", NETS)
def test_by_name_from_the_hub_folder_with_the_published_heads(net, hub):
    torch.save(backbone_weights(net), hub / BACKBONES[net].file)
    lpips = LPIPS.load(net)
    assert lpips.net == net
    assert torch.equal(lpips.features[0].weight, lpips_weights(net)["features.0.weight"])
    published = torch.load(
        str(files("torchmetrics") / f"functional/image/lpips_models/{net}.pth"), weights_only=True, map_location="cpu"
    )
    assert all(torch.equal(head.weight, published[f"lin{i}.model.1.weight"]) for i, head in enumerate(lpips.heads))
    assert all(float(head.weight.min()) >= 0 for head in lpips.heads)


def test_what_is_not_there_is_downloaded_once_and_its_hash_compared(hub, monkeypatch):
    asked = []

    def download(url, path, hash_prefix=None, progress=True):
        asked.append((url, hash_prefix))
        torch.save(backbone_weights("squeeze"), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert [LPIPS.load("squeeze").net for _ in range(2)] == ["squeeze"] * 2
    assert asked == [("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0")]


def test_without_a_network_the_error_says_what_to_get_and_where_it_goes(hub, flash, image_folder, tmp_path):
    ended = flash("evaluate", "--data", image_folder, "--lpips", "vgg", "--out", tmp_path / "o.json")
    error, url = ended.err.splitlines()[-1], "https://download.pytorch.org/models/vgg16-397923af.pth"
    assert ended.code == 2 and error.startswith("flashdiffusion: error: ") and "no network" in error
    assert f"LPIPS vgg needs {url} in {hub}, or a file of its weights instead" in error
    assert not (tmp_path / "o.json").exists()


def test_a_damaged_download_is_named(hub):
    (hub / BACKBONES["alex"].file).write_text("half of it")
    with pytest.raises(CheckpointError, match=r"LPIPS alex needs .*alexnet-owt"):
        LPIPS.load("alex")


# -- on the command line -----------------------------------------------------------------------------------


def test_the_network_stands_in_results_and_in_the_tables_heading(hub, flash, image_folder, tiny_model, tmp_path):
    torch.save(backbone_weights("squeeze"), hub / BACKBONES["squeeze"].file)
    common = ("--lpips", "squeeze", "--model", tiny_model, "--method", "ae")
    restored = flash(
        *("restore", image_folder / "image-00.png", "--reference", image_folder, "--out", tmp_path / "o", *common),
        *("--physics", "gaussian-blur:std=1"),
    )
    assert restored.code == 0, restored.err
    assert "(squeeze)" in restored.out and "LPIPS" in restored.out
    evaluated = flash("evaluate", "--data", image_folder, "--limit", 2, *common, "--out", tmp_path / "e.json")
    assert evaluated.code == 0, evaluated.err
    for file in (tmp_path / "o" / "results.json", tmp_path / "e.json"):
        written = json.loads(file.read_text())
        assert written["lpips_net"] == "squeeze" and written["mean"]["lpips"] > 0


def test_metrics_that_are_not_asked_for_are_absent():
    quality = Metrics()(*torch.rand(2, 3, 40, 40))
    assert set(quality.values) == {"psnr", "ssim"} and not quality.missing


@pytest.mark.skipif("LPIPS_ALEX" not in os.environ, reason="LPIPS_ALEX: path of the published AlexNet weights")
def test_published_weights_load():
    lpips = LPIPS.load(os.environ["LPIPS_ALEX"])
    x, y = _pair()
    assert lpips.net == "alex"
    assert bool((lpips(y, x).diff() > 0).all())
