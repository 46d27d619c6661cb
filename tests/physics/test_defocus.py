import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import TASKS, Defocus, concatenate
from flashdiffusion.physics.defocus import disc_kernel


def _x(count=1):
    return torch.rand(count, 3, 40, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("radius", [0.7, 1.0, 2.5, 4.0, 15.0])
def test_a_kernels_pixel_is_the_part_of_the_disc_in_it(radius):
    fine = 40  # points along a pixel's side
    offsets = (torch.arange(31 * fine, dtype=torch.float64) + 0.5) / fine - 15.5
    inside = (offsets[:, None].square() + offsets.square() <= radius**2).double()
    expected = inside.view(31, fine, 31, fine).sum(dim=(1, 3)) / inside.sum()
    torch.testing.assert_close(disc_kernel(torch.tensor([radius]))[0, 0].double(), expected, rtol=0, atol=3e-3)


def test_its_spread_is_that_of_a_disc_seen_by_pixels():
    kernel = disc_kernel(torch.tensor([3.0]))[0, 0].double()
    offset = torch.arange(31, dtype=torch.float64) - 15
    assert float((kernel.sum(dim=0) * offset.square()).sum()) == pytest.approx(3**2 / 4 + 1 / 12, rel=0.02)
    torch.testing.assert_close(kernel, kernel.mT)
    torch.testing.assert_close(kernel, kernel.flip(0))


@pytest.mark.parametrize("radius", [0.0, 0.3, 0.5])
def test_a_disc_within_a_pixel_is_the_identity(radius):
    torch.testing.assert_close(Defocus(radius).A(_x()), _x(), rtol=0, atol=1e-7)


def test_changes_smoothly_with_the_radius():
    radii = torch.arange(0.5, 4, 0.01)
    change = disc_kernel(radii).diff(dim=0).flatten(1).abs().sum(dim=1)
    assert float(change.max()) < 0.05
    assert float(change.diff().abs().max()) < 0.02


def test_more_is_lost_with_each_level_of_its_task():
    task = TASKS["defocus"]
    levels = torch.linspace(*task.ordering, 8)
    blurred = task.build(levels, (40, 32), torch.Generator().manual_seed(0), 0.0).A(_x().expand(8, -1, -1, -1))
    lost = (blurred - _x()).flatten(1).square().mean(dim=1)
    assert bool((lost.diff() > 0).all())


def test_a_batch_equals_its_images_alone():
    radii, x = [0.5, 1.3, 4.0, 15.0], _x(4)
    together = Defocus(radii, [0.0, 0.1, 0.2, 0.3])
    singles = [Defocus(radius, 0.1 * n) for n, radius in enumerate(radii)]
    parts = [one.A(x[[n]]) for n, one in enumerate(singles)]
    torch.testing.assert_close(together.A(x), torch.cat(parts), rtol=0, atol=1e-12)
    torch.testing.assert_close(concatenate(singles).A(x), torch.cat(parts), rtol=0, atol=1e-12)


def test_keeps_a_constant_image():
    x = torch.full((2, 3, 16, 20), 0.7)
    torch.testing.assert_close(Defocus([0.8, 15.0]).A(x), x)


@pytest.mark.parametrize("bad", [-1.0, 15.1, float("nan"), [[1.0]], []])
def test_refuses_radii_that_are_none(bad):
    with pytest.raises(InputError, match=r"defocus radius is .*; expected numbers from 0 to 15 \(pixels\)"):
        Defocus(bad)


def test_refuses_small_images():
    with pytest.raises(InputError, match="more than 15 a side"):
        Defocus(1.0).A(torch.zeros(1, 3, 15, 40))
