import pytest
import torch
import torch.nn.functional as F

from flashdiffusion.errors import InputError
from flashdiffusion.physics import SuperResolution, concatenate


def _x(*size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_equals_antialiased_bicubic_resizing(factor):
    x = _x(24, 48)
    expected = F.interpolate(x, size=(24 // factor, 48 // factor), mode="bicubic", antialias=True)
    torch.testing.assert_close(SuperResolution([factor, factor]).A(x), expected)


def test_keeps_a_constant_image_and_enlarges_it_again():
    x = torch.full((2, 3, 16, 24), 0.7)
    physics = SuperResolution([4, 4])
    torch.testing.assert_close(physics.A(x), torch.full((2, 3, 4, 6), 0.7))
    torch.testing.assert_close(physics.image(physics.A(x)), x)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_adjoint_is_exact_for_sides_that_are_multiples(factor):
    x, physics = _x(12 * factor, 5 * factor), SuperResolution(factor)
    y = torch.randn(2, 3, 12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, right = (physics.A(x) * y).flatten(1).sum(1), (x * physics.A_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right)
    torch.testing.assert_close(physics.A(x), torch.cat([physics.A(x[[n]]) for n in range(2)]))


def test_factor_one_is_the_identity():
    torch.testing.assert_close(SuperResolution([1, 1]).A(_x(6, 7)), _x(6, 7))


def test_refuses_images_that_the_factor_does_not_divide():
    with pytest.raises(InputError, match=r"multiples of 4: cut them to 32 x 28 pixels \(height x width\)"):
        SuperResolution([4, 4]).A(_x(32, 30))
    with pytest.raises(InputError, match=r"128 x 128 pixels cannot be made smaller 3 times.*: cut them to 126 x 126"):
        SuperResolution(3).A(_x(128, 128))
    with pytest.raises(InputError, match="multiples of 8: take larger images"):
        SuperResolution(8).A(_x(32, 7))


@pytest.mark.parametrize("bad", [[0], [2.5], [17], [float("nan")], 17])
def test_refuses_factors_that_are_none(bad):
    with pytest.raises(InputError, match="super-resolution factor is"):
        SuperResolution(bad)


def test_refuses_several_factors_in_a_batch():
    with pytest.raises(InputError, match=r"factor \[2, 4\] in one batch"):
        SuperResolution([2, 4])
    with pytest.raises(InputError, match="in one batch"):
        concatenate([SuperResolution([2]), SuperResolution([4])]).A(torch.zeros(2, 3, 8, 8))
