"""Our operators as DeepInverse's algorithms use them; tests/deepinv does the same with the real package."""

import pytest
import torch

from flashdiffusion import JPEG, BoxInpainting, GaussianBlur, SuperResolution
from flashdiffusion.errors import InputError

LINEAR = {
    "blur": lambda: GaussianBlur([0.4, 0.7]),
    "inpainting": lambda: BoxInpainting(1, 2, 3, 4),
    "super-resolution": lambda: SuperResolution(2),
}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _matrix(physics, row: int) -> torch.Tensor:
    """A of one image, written out."""
    basis = torch.eye(3 * 8 * 8, dtype=torch.float64).view(-1, 3, 8, 8)
    own = physics.take(torch.tensor([row] if len(physics) > 1 else [0]))
    return torch.cat([own.A(image[None]).flatten(1) for image in basis]).T


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("gamma", [0.3, 20.0])
def test_the_proximal_operator_is_the_closed_form(name, gamma):
    physics, z = LINEAR[name](), _random(2, 3, 8, 8)
    y = physics.A(_random(2, 3, 8, 8, seed=1))
    found = physics.prox_l2(z, y, gamma)
    for row in range(2):
        A = _matrix(physics, row)
        normal = gamma * A.T @ A + torch.eye(A.shape[1], dtype=torch.float64)
        expected = torch.linalg.solve(normal, gamma * A.T @ y[row].flatten() + z[row].flatten())
        torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LINEAR)
def test_the_pseudo_inverse_has_the_least_norm(name):
    physics = LINEAR[name]()
    y = physics.A(_random(2, 3, 8, 8))
    found = physics.A_dagger(y, max_iter=300)
    for row in range(2):
        expected = torch.linalg.pinv(_matrix(physics, row)) @ y[row].flatten()
        torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LINEAR)
def test_products_and_norm_are_those_of_the_operator(name):
    physics, x = LINEAR[name](), _random(2, 3, 8, 8)
    y = physics.A(x)
    torch.testing.assert_close(physics.A_vjp(x, y), physics.A_adjoint(y))
    torch.testing.assert_close(physics.A_adjoint_A(x), physics.A_adjoint(y))
    torch.testing.assert_close(physics.A_A_adjoint(y), physics.A(physics.A_adjoint(y)))
    expected = max(float(torch.linalg.matrix_norm(_matrix(physics, row), 2)) ** 2 for row in range(2))
    assert float(physics.compute_sqnorm(x)) == pytest.approx(expected, rel=0.02)


def test_its_noise_is_each_image_s_own():
    noise = GaussianBlur([1.0, 1.0], noise_std=[0.0, 0.5]).noise_model
    assert noise.sigma.shape == (2, 1, 1, 1)
    torch.manual_seed(0)
    drawn = noise(torch.zeros(2, 3, 64, 64))
    assert drawn.flatten(1).std(dim=1).tolist() == pytest.approx([0.0, 0.5], rel=0.05)


def test_a_nonlinear_physics_has_a_gradient_and_no_inverse():
    physics, x = JPEG(50), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert physics.A_vjp(x, torch.ones_like(x)).abs().sum() > 0
    with pytest.raises(InputError, match="jpeg has no A_adjoint"):
        physics.prox_l2(x, x, 1.0)
