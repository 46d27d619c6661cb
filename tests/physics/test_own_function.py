"""A function as a physics: found to be linear or not."""

import numpy as np
import pytest
import torch

from flashdiffusion.physics import GaussianBlur, Operator, is_linear, noise_std_of
from flashdiffusion.physics.operator import as_physics

Y = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_the_adjoint_of_a_linear_function_is_found():
    blur = GaussianBlur(1.5)
    found = as_physics(lambda x: blur.expand(len(x)).A(x), Y)
    assert is_linear(found) and noise_std_of(found) is None
    torch.testing.assert_close(found.A_adjoint(Y), blur.expand(2).A_adjoint(Y))
    with torch.no_grad():
        assert not found.A_adjoint(Y).requires_grad
    own = Operator(lambda x: 2 * x, adjoint=lambda y: 3 * y)
    assert as_physics(own, Y) is own


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x**2,
        lambda x: x + 0.1,
        lambda x: x[:, :, ::2],
        lambda x: np.asarray(x),
        lambda x: x * torch.ones(5, 3, 24, 24),
    ],
    ids=["square", "offset", "smaller", "numpy", "another batch"],
)
def test_what_is_not_linear_like_images_is_left_alone(function):
    assert not is_linear(as_physics(function, Y))
    assert not is_linear(as_physics(lambda x: x, Y.flatten(1)))
