"""Our operators in DeepInverse's data terms and algorithms, beside its own operator of the same kind."""

import pytest
import torch

import deepinv as dinv
from flashdiffusion import JPEG, BoxInpainting, GaussianBlur, MotionBlur, RandomInpainting, SuperResolution

pytestmark = pytest.mark.filterwarnings("ignore")


def _x(seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)


MASK = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.5).float()
OURS = {
    "gaussian-blur": lambda: GaussianBlur([0.7, 1.0], noise_std=0.01),
    "motion-blur": lambda: MotionBlur.from_std([0.8, 1.0], torch.Generator().manual_seed(0), 0.01),
    "random-inpainting": lambda: RandomInpainting(MASK, noise_std=0.01),
    "box-inpainting": lambda: BoxInpainting(3, 4, 9, 9, noise_std=0.01),
    "super-resolution": lambda: SuperResolution(2, noise_std=0.01),
}


@pytest.fixture(params=OURS)
def physics(request):
    return OURS[request.param]()


def _error(found: torch.Tensor, x: torch.Tensor) -> float:
    return float((found - x).square().mean())


def test_the_data_term_has_its_gradient_and_its_proximal_operator(physics):
    fidelity, x, z = dinv.optim.data_fidelity.L2(), _x(), _x(1)
    y = physics.A(x)
    gradient = fidelity.grad(z, y, physics)
    torch.testing.assert_close(gradient, physics.A_adjoint(physics.A(z) - y))
    near = fidelity.prox(z, y, physics, gamma=5.0)
    torch.testing.assert_close(near - z, -5.0 * fidelity.grad(near, y, physics), rtol=0, atol=1e-3)
    assert fidelity(near, y, physics).sum() < fidelity(z, y, physics).sum()


def _algorithm(iteration: str):
    """A new one for each run: its prior starts from what it found last."""
    return dinv.optim.optim_builder(
        iteration=iteration,
        prior=dinv.optim.prior.TVPrior(n_it_max=10),
        data_fidelity=dinv.optim.data_fidelity.L2(),
        max_iter=5,
        params_algo={"stepsize": 1.0, "lambda": 0.002},
    )


@pytest.mark.parametrize("iteration", ["PGD", "HQS", "ADMM"])
def test_iterations_of_theirs_give_what_they_give_for_an_operator_of_theirs(physics, iteration):
    y = physics(_x(), generator=torch.Generator().manual_seed(2))
    theirs = dinv.physics.LinearPhysics(A=physics.A, A_adjoint=physics.A_adjoint, max_iter=200, tol=1e-7)
    with torch.no_grad():
        found, expected = (_algorithm(iteration)(y, operator) for operator in (physics, theirs))
    assert _error(found, expected) < 1e-6 < _error(found, physics.A_adjoint(y))


def test_dpir_runs_with_a_denoiser_of_theirs(physics):
    x = _x()
    denoiser = dinv.models.MedianFilter(3)
    with torch.no_grad():
        found = dinv.optim.DPIR(sigma=0.01, denoiser=denoiser)(physics(x), physics)
    assert found.shape == x.shape and found.isfinite().all()


def test_inverse_and_proximal_operator_are_those_of_their_own_operator():
    theirs, ours = dinv.physics.Inpainting((3, 32, 32), MASK), RandomInpainting(MASK)
    y, z = ours.A(_x()), _x(1)
    torch.testing.assert_close(ours.A_dagger(y), theirs.A_dagger(y))
    torch.testing.assert_close(ours.prox_l2(z, y, 3.0), theirs.prox_l2(z, y, 3.0))


def test_a_nonlinear_physics_of_ours_has_the_gradient_of_the_data_term():
    physics, x = JPEG(60), _x()
    gradient = dinv.optim.data_fidelity.L2().grad(x, physics.A(_x(1)), physics)
    assert gradient.shape == x.shape and gradient.abs().sum() > 0


def test_ddrm_asks_for_a_singular_value_decomposition(physics):
    sampler = dinv.sampling.DDRM(denoiser=dinv.models.MedianFilter(3))
    with pytest.raises(AttributeError, match=r"mask|U_adjoint"):
        sampler(physics(_x()), physics)
