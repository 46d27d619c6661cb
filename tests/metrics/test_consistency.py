"""How far a restored image is from its measurement, in units of the noise; no true image is needed for it."""

import json

import pytest
import torch

from flashdiffusion import Operator
from flashdiffusion.data import ImageDataset
from flashdiffusion.jobs.measuring import evaluate
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import Metrics, consistency
from flashdiffusion.physics import HDR, GaussianBlur, RandomInpainting, SuperResolution, get_task
from flashdiffusion.physics.tasks import measure
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.rows import Unknown

STD = (0.02, 0.1)  # of two images
SEEN = torch.zeros(1, 1, 64, 64)
SEEN[..., 20:44, :] = 1


def _images(count=2, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _measured(physics, x):
    return Problem(physics(x, torch.Generator().manual_seed(1)), physics)


@pytest.mark.parametrize(
    "physics",
    [
        GaussianBlur(2.0, STD),
        HDR(2.0, STD),
        SuperResolution(4, STD),
        RandomInpainting(SEEN, STD),
    ],
    ids=["linear", "nonlinear", "smaller", "holes"],
)
def test_it_is_one_at_the_true_image_and_counts_measured_entries_alone(physics):
    x = _images()
    problem = _measured(physics, x)
    assert consistency(x, problem).tolist() == pytest.approx([1, 1], abs=0.05)
    other = (x + 0.2).clamp(0, 1)
    seen = SEEN.expand(problem.y.shape) > 0 if isinstance(physics, RandomInpainting) else torch.ones_like(problem.y) > 0
    for row, std in enumerate(STD):
        difference = (physics.A(other) - problem.y)[row][seen[row]]
        expected = float(difference.square().mean().sqrt()) / std
        assert float(consistency(other, problem)[row]) == pytest.approx(expected, rel=1e-4) and expected > 1.1


def test_what_nobody_measured_counts_for_nothing():
    x, physics = _images(), RandomInpainting(SEEN, STD)
    problem = _measured(physics, x)
    painted = torch.where(SEEN > 0, x, 1 - x)
    torch.testing.assert_close(consistency(painted, problem), consistency(x, problem))


def test_of_an_operator_whose_measurements_are_no_images():
    rows = torch.randn(40, 3 * 16 * 16, generator=torch.Generator().manual_seed(2))
    physics = Operator(lambda x: x.flatten(1) @ rows.T, lambda y: (y @ rows).view(-1, 3, 16, 16), noise_std=0.5)
    x = _images(1, 16)
    y = physics.A(x) + 0.5 * torch.randn(1, 40, generator=torch.Generator().manual_seed(3))
    expected = (physics.A(x * 0.99) - y).square().mean().sqrt() / 0.5
    assert float(consistency(x * 0.99, Problem(y, physics))) == pytest.approx(float(expected), rel=1e-3)


def test_without_noise_it_is_missing_with_the_reason():
    x = _images(1)
    quality = Metrics()(x[0], x[0], _measured(GaussianBlur(2.0, 0.0), x))
    assert quality.missing == {
        "consistency": "consistency: it is in units of the noise, and noise std is 0 or not told"
    }
    assert "ssim" in quality.values


def test_a_physics_that_fails_leaves_the_other_figures():
    x = _images(1)
    quality = Metrics()(x[0], x[0], Problem(x, Unknown()))
    assert "physics of these measurements is not known" in quality.missing["consistency"]
    assert set(quality.values) == {"psnr", "ssim"}


@pytest.mark.parametrize("method", ["flash", "bound"])
def test_evaluate_measures_the_image_before_it_is_rounded(tiny_pipeline, image_folder, method):
    data, task = ImageDataset([image_folder], 32, 4), get_task("mixture")
    measured = measure(data.batch(range(4)), data.ids, task, 0.05, 0)
    for one in evaluate(tiny_pipeline, data, task, method, settings=Settings(steps=20), batch_size=3):
        row = torch.tensor([one.index])
        problem = Problem(measured.y[row], measured.physics.take(row))
        expected = float(consistency(one.restored[None], problem))
        assert one.record.metrics["consistency"] == pytest.approx(expected, rel=1e-4) and expected > 0
        assert one.problem is None, "not held once it is done"


def test_restore_says_it_without_a_true_image(flash, image_folder, tiny_model, tmp_path):
    common = ("--physics", "gaussian-blur:std=1", "--model", tiny_model, "--method", "ae", "--out", tmp_path / "o")
    ended = flash("restore", image_folder / "image-00.png", *common)
    assert ended.code == 0 and "consistency" in ended.out, ended.err
    record = json.loads((tmp_path / "o" / "results.json").read_text())["records"][0]
    assert record["consistency"] > 0 and "psnr" not in record
    ended = flash("restore", image_folder / "image-00.png", *common, "--noise-std", 0)
    assert ended.code == 0 and ended.err == "", "it was not asked for"
    record = json.loads((tmp_path / "o" / "results.json").read_text())["records"][0]
    assert "consistency" not in record and "it is in units of the noise" in record["missing"]["consistency"]
