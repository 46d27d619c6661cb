"""Severity measured on a few pictures, in place of a trained encoder."""

from importlib.resources import as_file, files

import pytest
import torch

from flashdiffusion import JPEG, FlashPipeline, GaussianBlur, RandomInpainting, Settings, SuperResolution
from flashdiffusion.data import load_image
from flashdiffusion.errors import InputError
from flashdiffusion.priors import LatentPrior
from flashdiffusion.severity import ordering_accuracy, true_severity
from flashdiffusion.solvers.measured import MeasuredSeverity, _best


@pytest.fixture(scope="module")
def faces():
    return FlashPipeline.from_pretrained()


@pytest.fixture(scope="module")
def measured(faces):
    """On the photograph alone: the portrait is for the tests."""
    with as_file(files("flashdiffusion") / "assets" / "photograph.jpg") as path:
        picture = load_image(path, 256)
    return FlashPipeline(faces.prior).measure_severity(torch.stack([picture, picture.flip(2)]))


@pytest.fixture(scope="module")
def portrait():
    from flashdiffusion.priors.trial import photograph

    return photograph(64)


def test_it_rises_with_the_blur_and_is_near_the_truth(measured, portrait):
    stds = [0.5, 1.0, 1.5, 2.0, 3.0]
    physics = GaussianBlur(stds, noise_std=0.05)
    x = portrait.expand(5, -1, -1, -1)
    severity = measured.severity(physics(x, torch.Generator().manual_seed(0)), physics)
    assert float(ordering_accuracy(severity.var[None])) >= 0.9
    true = true_severity(severity.z_hat, measured.prior.encode(x))
    ratio = severity.var / true
    assert bool((ratio > 1 / 3).all()) and bool((ratio < 3).all())
    assert severity.map.shape == (5, 1, 16, 16)
    torch.testing.assert_close(severity.map.mean(dim=(1, 2, 3)), severity.var)


def test_lost_pixels_are_interpolated(measured, portrait):
    kept = (
        torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) > torch.tensor([0.3, 0.8]).view(2, 1, 1, 1)
    ).float()
    physics = RandomInpainting(kept, noise_std=0.02)
    x = portrait.expand(2, -1, -1, -1)
    severity = measured.severity(physics(x, torch.Generator().manual_seed(0)), physics)
    true = true_severity(severity.z_hat, measured.prior.encode(x))
    assert float(severity.var[0]) < float(severity.var[1]) < 1 and float(true[1]) < 0.6


@pytest.mark.parametrize(
    "grades",
    [
        [SuperResolution(2, noise_std=0.05), SuperResolution(4, noise_std=0.05)],
        [JPEG(40, noise_std=0.0), JPEG(10, noise_std=0.0)],  # not linear: of y alone
    ],
    ids=["super-resolution", "JPEG"],
)
def test_measurements_of_other_kinds_are_near_the_truth_too(measured, portrait, grades):
    found = []
    for physics in grades:
        severity = measured.severity(physics(portrait, torch.Generator().manual_seed(0)), physics)
        ratio = float(severity.var / true_severity(severity.z_hat, measured.prior.encode(portrait)))
        assert 1 / 3 < ratio < 3
        found.append(float(severity.var))
    assert found[0] < found[1]


def test_a_picture_is_encoded_once_for_a_batch(measured, portrait, monkeypatch):
    physics = GaussianBlur([1.0, 2.0, 3.0], noise_std=0.05)
    y = physics(portrait.expand(3, -1, -1, -1), torch.Generator().manual_seed(0))
    encode, counts = LatentPrior.encode, []

    def counting(prior, x):
        counts.append(len(x))
        return encode(prior, x)

    monkeypatch.setattr(LatentPrior, "encode", counting)
    measured.severity(y, physics)
    assert counts == 2 * [1, 3, 3] + [3, 3]


def test_the_line_is_followed_no_further_than_the_pictures_go():
    one = torch.ones(1)
    table = (one, 2 * one, 0 * one, one, -one, one)  # error, slope, level, gain, least and greatest busyness
    busy = torch.tensor([-5.0, 0.5, 5.0]).view(1, 1, 1, 3)
    severity = _best([table], [(torch.zeros(1, 4, 1, 3), busy)])
    assert severity.log_var_map.flatten().tolist() == [-2.0, 1.0, 2.0]


def test_a_batch_gives_what_its_images_give(measured, portrait):
    physics = GaussianBlur([1.0, 2.5], noise_std=0.05)
    y = physics(torch.cat([portrait, portrait.flip(2)]), torch.Generator().manual_seed(0))
    both = measured.severity(y, physics)
    for n in range(2):
        one = measured.severity(y[n : n + 1], physics.take(torch.tensor([n])))
        torch.testing.assert_close(one.var, both.var[n : n + 1], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(one.z_hat, both.z_hat[n : n + 1], rtol=1e-3, atol=1e-4)


def test_a_flash_start_needs_no_encoder(measured, portrait, tmp_path):
    physics = GaussianBlur(2.0, noise_std=0.05)
    y = physics(portrait, torch.Generator().manual_seed(0))
    result = measured(y, physics, settings=Settings(steps=3, fit_iterations=2))
    assert 0 < int(result.start_step[0]) < 1000 and int(result.nfe[0]) < 20
    error = [float((image - portrait).square().mean()) for image in (result.images, y)]
    assert error[0] < error[1]
    assert "measured by the physics on a few pictures" in repr(measured)
    measured.save_pretrained(tmp_path)
    assert not (tmp_path / "severity_encoder").exists()


def test_its_errors_are_covered_by_more_noise_than_those_of_an_encoder(measured, faces):
    physics, method = GaussianBlur(2.0, noise_std=0.05), ("flash", "proximal")
    trained, own = (pipe.settings_for(physics, *method).correction for pipe in (FlashPipeline(faces.prior), measured))
    assert own == MeasuredSeverity.caution * trained > trained
    assert measured.settings_for(physics, *method, Settings(correction=0.5)).correction == 0.5


def test_what_it_cannot_be_measured_on_is_refused(measured, faces, portrait):
    with pytest.raises(InputError, match="severity is measured by the physics, and it is not known"):
        measured.severity(portrait)
    with pytest.raises(InputError, match=r"pictures of shape \(3, 8, 8\).*expected \(m, 3, H, W\) floats"):
        MeasuredSeverity(faces.prior, torch.rand(3, 8, 8))
    with pytest.raises(InputError, match="one of pixels, and has no severity"):
        FlashPipeline(LatentPrior.of(lambda z, i: z)).measure_severity()
