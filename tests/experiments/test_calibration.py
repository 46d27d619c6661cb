"""Calibration of the severity map: an encoder of known error, where coverage is known in closed form."""

import json
import math
import shutil

import pytest
import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.experiments import calibration
from flashdiffusion.experiments.calibration import FACTORS, NOMINAL, Checked, measure_calibration, variance_factor
from flashdiffusion.physics import get_task
from flashdiffusion.priors import IdentityAutoencoder
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.severity.loading import multiply_variance

STD = 0.1


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(calibration, "RESAMPLES", 50)


class _Pixels:
    """Stands in for a pipeline of pixels: ẑ = y, whose error is the noise; the left half claims another variance."""

    def __init__(self, left: float = 1.0, right: float = 1.0):
        self.prior, self.encode, self.device = self, IdentityAutoencoder().encode, torch.device("cpu")
        self.scale = torch.tensor([left] * 16 + [right] * 16)

    def severity(self, y, physics=None):
        variance = (self.scale * (2 * STD) ** 2).expand(len(y), 32, 32)  # latents are images in [-1, 1]
        return Severity(self.encode(y), variance.mean(dim=(1, 2)), variance.log())


def _covered(level: float, scale: float) -> float:
    """Share of |e| <= q_p √(scale) σ, for e ~ N(0, σ²)."""
    quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    return math.erf(quantile * math.sqrt(scale / 2))


def _rows(pipeline, image_folder, count=12, levels=(STD,)):
    data = ImageDataset([image_folder], 32, count)
    return list(measure_calibration(pipeline, data, get_task("denoising"), levels))


@pytest.mark.parametrize(("left", "right"), [(1, 1), (0.25, 0.25), (0.5, 2)])
def test_coverage_of_a_known_error_is_that_of_the_closed_form(image_folder, left, right):
    rows = _rows(_Pixels(left, right), image_folder)
    coverage = torch.stack([row.coverage for row in rows]).mean(dim=0)
    expected = [(_covered(p, left) + _covered(p, right)) / 2 for p in NOMINAL.tolist()]
    assert coverage.tolist() == pytest.approx(expected, abs=0.01)
    (level,) = calibration.summarise(rows)["levels"]
    error = sum(abs(c - p) for c, p in zip(expected, NOMINAL.tolist(), strict=True)) / 9
    assert level["calibration_error"] == pytest.approx(error, abs=0.01)
    assert level["median_ratio"] == pytest.approx((left + right) / 2, rel=0.03)
    low, high = level["intervals"]["coverage_90"]
    assert low <= level["coverage_90"] <= high


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_the_factor_undoes_a_wrong_scale(image_folder, scale):
    found = variance_factor(_rows(_Pixels(scale, scale), image_folder))
    # Of 12 images 90 % of 13 must be covered: as if all but the 13th were covered to 97.5 %.
    assert _covered(0.9, found * scale) == pytest.approx(0.9 * 13 / 12, abs=0.005)


def _checked(index, width, noise_std=0.0):
    """An image whose entries are all covered from a factor of `width` on."""
    return Checked(index, str(index), noise_std, widened=(width <= FACTORS).float())


def test_the_factor_counts_images_and_not_entries_or_levels():
    assert variance_factor([_checked(i, 2.0) for i in range(8)]) is None, "8 of 9 images are less than 90 %"
    assert variance_factor([_checked(i, 2.0) for i in range(9)]) == pytest.approx(2, rel=0.02)
    levels = [_checked(i, width, std) for i in range(9) for width, std in ((0.5, 0.1), (2.0, 0.2))]
    assert variance_factor(levels) == pytest.approx(2, rel=0.02)
    assert variance_factor(levels[:-2]) is None, "levels of one image are no further images"
    most = [_checked(i, 1.0 if i < 18 else 50.0) for i in range(19)]
    assert variance_factor(most) == pytest.approx(1, rel=0.02), "18 of 20"


def test_an_image_is_measured_the_same_in_any_batch(tiny_pipeline, image_folder, monkeypatch):
    data, task = ImageDataset([image_folder], 32, 3), get_task("gaussian-blur")
    together = list(measure_calibration(tiny_pipeline, data, task, (0.0, 0.1)))
    monkeypatch.setattr(calibration, "BATCH", 1)
    alone = {(row.id, row.noise_std): row for row in measure_calibration(tiny_pipeline, data, task, (0.0, 0.1))}
    assert len(together) == len(alone) == 6
    for row in together:
        other = alone[row.id, row.noise_std]
        torch.testing.assert_close(row.coverage, other.coverage, atol=2e-3, rtol=0)
        assert (row.severity, row.true_severity) == pytest.approx((other.severity, other.true_severity), rel=1e-4)


@pytest.fixture
def own_model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "own")


def _severity(folder, y):
    return FlashPipeline.from_pretrained(folder).severity(y)


def test_a_stored_scale_multiplies_the_map_and_its_mean(own_model):
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = _severity(own_model, y)
    assert multiply_variance(own_model / "severity_encoder", 2.0) == 2
    assert multiply_variance(own_model / "severity_encoder", 1.5) == 3
    after = _severity(own_model, y)
    torch.testing.assert_close(after.var, 3 * before.var)
    torch.testing.assert_close(after.map, 3 * before.map)
    assert torch.equal(after.z_hat, before.z_hat)
    FlashPipeline.from_pretrained(own_model).save_pretrained(own_model.parent / "saved")
    assert torch.equal(_severity(own_model.parent / "saved", y).var, after.var)


def test_the_papers_head_is_scaled_too(tiny_pipeline):
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = SeverityEncoder.from_autoencoder(tiny_pipeline.prior.autoencoder, "paper").eval()
    scaled = SeverityEncoder(**{**plain.config, "variance_scale": 4.0}).eval()
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(scaled(y).map, 4 * plain(y).map)


@pytest.mark.parametrize("scale", [0, -1.0, "2", 1e9])
def test_a_scale_that_cannot_be_is_refused(own_model, scale):
    path = own_model / "severity_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"variance_scale": scale}))
    with pytest.raises(CheckpointError, match="variance_scale is"):
        FlashPipeline.from_pretrained(own_model)


def test_a_folder_of_before_has_no_scale(own_model):
    path = own_model / "severity_encoder" / "config.json"
    config = json.loads(path.read_text())
    config.pop("variance_scale")
    path.write_text(json.dumps(config))
    assert FlashPipeline.from_pretrained(own_model).severity_encoder.config.variance_scale == 1


def test_calibrate_writes_saves_and_is_then_calibrated(flash, tmp_path, image_folder, own_model):
    out, plot = tmp_path / "new" / "calibration.json", tmp_path / "reliability.png"
    levels = ("--noise-std", 0.05, "--noise-std", 0.1)
    command = ("calibrate", "--data", image_folder, "--model", own_model, *levels, "--out", out)
    ended = flash(*command, "--plot", plot, "--save")
    assert ended.code == 0, ended.err
    found = json.loads(out.read_text())
    assert [level["noise_std"] for level in found["levels"]] == [0.05, 0.1] and len(found["records"]) == 24
    assert plot.read_bytes().startswith(b"\x89PNG")
    factor = found["variance_factor"]
    assert not 0.9 < factor < 1.1, "the tiny model is all but untrained"
    config = json.loads((own_model / "severity_encoder" / "config.json").read_text())
    assert config["variance_scale"] == pytest.approx(factor)
    again = flash(*command)
    assert again.code == 0, again.err
    assert json.loads(out.read_text())["variance_factor"] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--save",), "--model is not given, expected a folder (the embedded model is read-only"),
        (("--model", "faces-128", "--save"), "--model is faces-128, expected a folder"),
        (("--noise-std", "-1"), "noise std is -1; expected a noise standard deviation"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_first(flash, image_folder, options, message):
    ended = flash("calibrate", "--data", image_folder, *options)
    assert ended.code == 2 and message in ended.err


def test_too_few_images_save_nothing(flash, image_folder, own_model):
    path = own_model / "severity_encoder" / "config.json"
    before = path.read_bytes()
    ended = flash("calibrate", "--data", image_folder, "--model", own_model, "--limit", 3, "--save")
    assert ended.code == 2 and "no factor gives 90 % coverage over 3 images" in ended.err
    assert path.read_bytes() == before


def test_a_model_without_a_severity_encoder_cannot_be_calibrated(tiny_pipeline, image_folder):
    bare = FlashPipeline(tiny_pipeline.prior)
    with pytest.raises(InputError, match="no severity encoder"):
        _rows(bare, image_folder, 1)
