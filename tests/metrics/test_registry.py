"""A metric is one entry in one file, a user's own too; what an image is too small for is missing, with the reason."""

import json

import pytest
import torch
from PIL import Image

from flashdiffusion.errors import InputError, sized
from flashdiffusion.metrics import METRICS, Metric, Metrics, all_metrics, headings, psnr, register


@pytest.fixture
def mae():
    yield register(Metric("mae", "MAE", higher=False, compare=lambda x, truth: (x - truth).abs().mean(dim=(1, 2, 3))))
    METRICS.pop("mae", None)


def test_those_of_the_library_say_their_direction_and_come_in_one_order_before_a_users(mae):
    directions = [(name, metric.higher) for name, metric in all_metrics().items()]
    assert directions == [("psnr", True), ("ssim", True), ("lpips", False), ("consistency", None), ("mae", False)]


def test_a_users_metric_is_measured_everywhere(mae, flash, image_folder, tiny_model, tmp_path):
    common = ("--model", tiny_model, "--method", "ae", "--json")
    restored = flash(
        *("restore", image_folder / "image-00.png", "--reference", image_folder, "--out", tmp_path / "o", *common),
        *("--physics", "gaussian-blur:std=1"),
    )
    assert restored.code == 0, restored.err
    written = json.loads((tmp_path / "o" / "results.json").read_text())
    for result in (written, json.loads(restored.out)):
        assert 0 < result["records"][0]["mae"] < 1 and result["mean"]["mae"] > 0
    again = flash(
        *("restore", image_folder / "image-00.png", "--reference", image_folder, "--out", tmp_path / "o", "--resume"),
        *("--physics", "gaussian-blur:std=1", *common[:-1]),
    )
    assert again.code == 0 and "MAE" in again.out, again.err
    evaluated = flash(
        *("evaluate", "--data", image_folder, "--limit", 2, "--model", tiny_model, "--method", "ae"),
        *("--out", tmp_path / "e.json"),
    )
    assert evaluated.code == 0 and " mae 0." in evaluated.out, evaluated.err
    assert all(row["mae"] > 0 for row in json.loads((tmp_path / "e.json").read_text())["records"])


def test_restore_says_what_the_measurement_was(flash, image_folder, tiny_model, tmp_path):
    from flashdiffusion.data.images import read_image, to_tensor

    blurred = tmp_path / "image-00.png"
    Image.open(image_folder / "image-00.png").resize((24, 20)).resize((48, 40)).save(blurred)
    ended = flash(
        *("restore", blurred, "--reference", image_folder, "--model", tiny_model, "--method", "ae"),
        *("--physics", "gaussian-blur:std=1", "--out", tmp_path / "o"),
    )
    assert ended.code == 0 and "before" in ended.out
    y, x = (to_tensor(read_image(folder / "image-00.png"))[None] for folder in (tmp_path, image_folder))
    record = json.loads((tmp_path / "o" / "results.json").read_text())["records"][0]
    assert record["measurement_psnr"] == pytest.approx(float(psnr(y, x)), abs=1e-3)


@pytest.mark.parametrize("name", ["ssim", "lpips"])
def test_an_image_too_small_has_no_figure_but_a_reason(name):
    metrics, smallest = Metrics(), all_metrics()[name].smallest
    metrics.compare = {"psnr": psnr, name: _Smallest(name)}
    for height, width, there in ((smallest, smallest, True), (smallest - 1, 64, False), (64, 1, False)):
        x = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
        quality = metrics(x, (x + 0.1).clamp(0, 1))
        assert "psnr" in quality.values and (name in quality.values) == there
        if there:
            assert quality.values[name] == quality.values[name], "not NaN"
        else:
            assert (
                quality.missing[name]
                == f"the image has {sized(height, width)}; {name} needs sides of {smallest} pixels"
            )


class _Smallest:
    """The metric itself; LPIPS' three networks with random weights."""

    def __init__(self, name):
        from flashdiffusion.metrics import LPIPS, ssim

        self.calls = [ssim] if name == "ssim" else [LPIPS("alex"), LPIPS("squeeze"), LPIPS("vgg")]

    def __call__(self, x, truth):
        return sum(call(x, truth) for call in self.calls)


def test_small_images_are_restored_all_the_same(flash, tiny_model, tmp_path):
    small = tmp_path / "small.png"
    Image.new("RGB", (8, 8), (90, 120, 30)).save(small)
    ended = flash(
        *("restore", small, "--reference", tmp_path, "--model", tiny_model, "--method", "ae"),
        *("--physics", "gaussian-blur:std=1", "--out", tmp_path / "o"),
    )
    assert ended.code == 0 and "note: the image has 8 x 8 pixels; ssim needs sides of 11 pixels" in ended.err
    record = json.loads((tmp_path / "o" / "results.json").read_text())["records"][0]
    assert "psnr" in record and "ssim" not in record and "ssim" in record["missing"]


def test_a_heading_names_the_network_where_it_is_not_the_usual_one():
    columns = [
        headings(nets)["lpips"] for nets in ({}, {"lpips_net": None}, {"lpips_net": "alex"}, {"lpips_net": "vgg"})
    ]
    assert columns == ["LPIPS", "LPIPS", "LPIPS", "LPIPS (vgg)"]
    assert headings({"lpips_net": "vgg"})["psnr"] == "PSNR"


def test_what_cannot_be_a_metric():
    with pytest.raises(InputError, match="expected one"):
        register(Metric("none", "none", higher=True))
    with pytest.raises(InputError, match="expected one"):
        register(Metric("two", "two", higher=True, compare=psnr, fit=psnr))
    with pytest.raises(InputError, match="unknown metric 'fid'"):
        Metrics({"fid": "weights"})
    with pytest.raises(InputError, match="psnr needs no weights"):
        Metrics({"psnr": "weights"})
