"""Holes are found among lost pixels, filled for networks, and start from noise."""

import pytest
import torch

from flashdiffusion import BoxInpainting, GaussianBlur, RandomInpainting
from flashdiffusion.physics import Compose
from flashdiffusion.priors import PatchAutoencoder
from flashdiffusion.severity import PatchSeverityEncoder, Severity
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.estimate import in_holes, scaled_by, starting_variance, with_holes
from flashdiffusion.solvers.holes import find_holes
from local_model import UNET

SIZE = 96


def _random(lost):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(4, 1, SIZE, SIZE, generator=generator) >= lost).float()


def _boxed(mask, side=20):
    mask = mask.clone()
    mask[:, :, 30 : 30 + side, 40 : 40 + side] = 0
    return mask


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5, 0.75, 0.95])
def test_pixels_lost_at_random_are_no_holes(lost):
    assert find_holes(_random(lost)).float().mean() < 1e-3


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5])
def test_a_box_is_a_hole_whatever_is_lost_around_it(lost):
    mask = _boxed(_random(lost))
    holes = find_holes(mask)
    assert bool(holes[:, :, 30:50, 40:60].all())
    assert not bool((holes & (mask == 1)).any())
    assert holes.float().mean() < 1.5 * 400 / SIZE**2


def test_a_scribble_at_the_border_and_a_lost_image_are_holes():
    mask = torch.ones(2, 1, SIZE, SIZE)
    mask[0, :, 5:10] = 0
    mask[0, :, :, :4] = 0
    mask[1] = 0
    assert torch.equal(find_holes(mask), mask == 0)


@pytest.mark.parametrize("compose", [False, True])
def test_networks_see_a_hole_filled_and_people_see_it_black(compose):
    x = torch.full((1, 3, SIZE, SIZE), 0.6)
    physics = BoxInpainting(30, 40, 20, 20, noise_std=0.0)
    physics = Compose(GaussianBlur(0.0, noise_std=0.0), physics) if compose else physics
    problem = Problem(physics(x), physics)
    assert bool((problem.image[..., 30:50, 40:60] == 0).all())
    torch.testing.assert_close(problem.filled, x, atol=0.02, rtol=0)
    seen = problem.seen_by(lambda image: image)
    assert torch.equal(seen, problem.filled)


def test_nothing_changes_without_holes():
    mask = _random(0.75)[:1]
    physics = RandomInpainting(mask)
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    problem = Problem(physics(x), physics)
    severity = Severity(torch.zeros(1, 8, 24, 24), torch.tensor([0.1]), torch.full((1, 24, 24), -2.0))
    assert problem.holes is None and problem.filled is problem.image
    assert in_holes(problem, (24, 24)) is None and with_holes(severity, None) is severity
    assert torch.equal(starting_variance(severity, None), severity.var)


def test_the_map_is_1_in_a_hole_and_the_image_starts_by_it():
    physics = BoxInpainting([30, 0], [40, 0], [20, 0], [20, 0])
    problem = Problem(physics(torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))), physics)
    low = torch.full((2, 24, 24), 0.05).log()
    holes = in_holes(problem, (24, 24))
    severity = with_holes(Severity(torch.zeros(2, 8, 24, 24), torch.tensor([0.05, 0.05]), low), holes)
    inside = severity.map[0, 0] == 1
    assert bool(inside[8:12, 10:15].all()) and not bool(inside[:5].any())
    assert severity.log_var_map is not None and torch.equal(severity.log_var_map[1], low[1])
    torch.testing.assert_close(severity.var, severity.map.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(starting_variance(severity, holes), torch.tensor([1.0, 0.05]))
    halved = scaled_by(severity, torch.tensor([0.5, 0.5]), holes)
    assert torch.equal(halved.map[0, 0][inside], severity.map[0, 0][inside]), "what y does not say is not in question"
    torch.testing.assert_close(halved.map[0, 0][~inside], 0.5 * severity.map[0, 0][~inside])
    torch.testing.assert_close(halved.var, halved.map.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(starting_variance(halved, holes), torch.tensor([1.0, 0.025]))


def test_an_encoder_that_interpolates_has_nothing_filled_for_it():
    autoencoder = PatchAutoencoder(2)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    physics = BoxInpainting(8, 8, 16, 16, 0.05)
    encoder = PatchSeverityEncoder.of(autoencoder, UNET, ["box-inpainting"]).eval()
    problem = Problem(physics(x), physics)
    with torch.no_grad():
        found = problem.severity(encoder)
        expected = encoder(problem.filled, problem.conditions)
    assert torch.equal(found.z_hat, expected.z_hat) and torch.equal(found.var, expected.var)
    fresh = Problem(problem.y, physics)
    with torch.no_grad():
        fresh.severity(encoder)
    assert "filled" not in vars(fresh)
    assert fresh.shown_to(lambda image, known: None) is fresh.filled
