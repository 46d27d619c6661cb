"""GML-DPS and PSLD against their closed forms on the linear toy prior."""

import torch

from flashdiffusion.physics import GaussianBlur
from flashdiffusion.solvers import GMLDPS, PSLD, LatentDPS, Problem, Transition
from toy import ToyPrior

PRIOR = ToyPrior()
TRANSITION = Transition(PRIOR.schedule.grid())
K = torch.tensor([5, 100, 400, 900])


class LossyPrior(ToyPrior):
    """Its encoder is not the decoder's inverse: E(D(z)) = z / 2."""

    def encode(self, x):
        return super().encode(x) / 2


def _batch():
    generator = torch.Generator().manual_seed(0)
    x = PRIOR.decode(PRIOR.sample(4, 16, generator))
    physics = GaussianBlur([0.0, 0.5, 1.0, 2.0], 0.05)
    z = torch.randn(4, 12, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 1, 12, 8, 8, generator=generator, dtype=torch.float64)
    return z, noise, Problem(physics(x, generator), physics)


def _unit(rows):
    return rows / rows.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_gml_dps_adds_the_gradient_of_the_distance_to_the_fixed_point():
    """z0 - E(D(z0)) = z0 / 2, so its norm's gradient in z is w (1/2) z0 / |z0| with z0 = w z."""
    prior = LossyPrior()
    z, noise, problem = _batch()
    plain = LatentDPS(prior, TRANSITION, 0.8).step(z, K, problem, noise).z
    both = GMLDPS(prior, TRANSITION, 0.8, 0.3).step(z, K, problem, noise).z
    z0 = prior.denoise(z, K)
    torch.testing.assert_close(plain - both, 0.3 * (z0 / z) * _unit(z0) / 2)


def test_gml_dps_is_latent_dps_where_the_autoencoder_is_exact():
    z, noise, problem = _batch()
    plain = LatentDPS(PRIOR, TRANSITION, 0.8).step(z, K, problem, noise).z
    # The distance is rounding noise, whose unit vector still points somewhere: it is a distance of 1e-15, though.
    z0 = PRIOR.denoise(z, K)
    assert float((z0 - PRIOR.encode(PRIOR.decode(z0))).abs().max()) < 1e-12
    assert torch.equal(GMLDPS(PRIOR, TRANSITION, 0.8, 0.0).step(z, K, problem, noise).z, plain)


def test_psld_adds_the_gradient_of_the_gluing_term():
    """With an orthonormal autoencoder z0 - E(A'y + (I - A'A) D(z0)) = E-part of A'(A D(z0) - y): its norm's gradient
    in z is w Q A'A A'-direction, computed here from A and its adjoint alone."""
    z, noise, problem = _batch()
    plain = LatentDPS(PRIOR, TRANSITION, 0.8).step(z, K, problem, noise).z
    both = PSLD(PRIOR, TRANSITION, 0.8, 0.3).step(z, K, problem, noise).z
    z0 = PRIOR.denoise(z, K)
    physics = problem.physics

    def to_latents(image):  # the linear part of E, for an image on the [-1, 1] scale
        return PRIOR.encode((image + 1) / 2)

    gap = to_latents(2 * physics.A_adjoint(physics.A(PRIOR.decode(z0)) - problem.y))
    back = PRIOR.decode(_unit(gap)) * 2 - 1  # the transpose of an orthonormal map is its inverse
    gradient = to_latents(physics.A_adjoint(physics.A(back)))
    torch.testing.assert_close(plain - both, 0.3 * (z0 / z) * gradient)


def test_the_second_term_works_without_the_first():
    prior = LossyPrior()
    z, noise, problem = _batch()
    free = LatentDPS(prior, TRANSITION, 0.0).step(z, K, problem, noise).z
    alone = GMLDPS(prior, TRANSITION, 0.0, 0.3).step(z, K, problem, noise).z
    z0 = prior.denoise(z, K)
    torch.testing.assert_close(free - alone, 0.3 * (z0 / z) * _unit(z0) / 2)
