from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.severity import Conditions, Severity
from flashdiffusion.solvers import (
    DDIMInversion,
    EncodedEstimate,
    Fixed,
    FromNoise,
    LatentDPS,
    Problem,
    RegressedEstimate,
    SNRMatch,
    Transition,
)
from flashdiffusion.solvers.estimate import explained
from toy import ToyPrior, run, started

PRIOR = ToyPrior()
GRID = PRIOR.schedule.grid()


@dataclass
class KnownSeverity:
    """A severity encoder that is told the answer."""

    z_hat: Tensor
    var: Tensor

    def __call__(self, y: Tensor, known: Conditions) -> Severity:
        return Severity(self.z_hat, self.var)


def _noise(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, 12, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _measured(count: int) -> Problem:
    return Problem(torch.zeros(count, 3, 16, 16, dtype=torch.float64), GaussianBlur([1.0] * count))


def test_noise_starts_at_the_top_of_the_grid():
    noise = _noise(3)
    start = FromNoise()(_measured(3), PRIOR, PRIOR.schedule.grid(20), noise)
    assert start.k.tolist() == [20, 20, 20]
    assert torch.equal(start.z, noise)


def test_snr_match_and_mixing_are_the_papers():
    var = torch.tensor([0.05, 0.3, 0.5], dtype=torch.float64)
    z_hat, noise = _noise(3, 4), _noise(3)
    start = SNRMatch(KnownSeverity(z_hat, var), correction=1.2)(_measured(3), PRIOR, GRID, noise)
    assert torch.equal(start.k, GRID.match(var))
    mix = (1.2 * var).view(-1, 1, 1, 1)
    torch.testing.assert_close(start.z, (1 - mix).sqrt() * z_hat + mix.sqrt() * noise)


def test_no_correction_leaves_the_estimate_unmixed():
    z_hat = _noise(2, 4)
    encoder = KnownSeverity(z_hat, torch.tensor([0.1, 0.2], dtype=torch.float64))
    torch.testing.assert_close(SNRMatch(encoder, correction=0.0)(_measured(2), PRIOR, GRID, _noise(2)).z, z_hat)


def test_mixing_stays_finite_for_hopeless_images():
    encoder = KnownSeverity(_noise(2), torch.tensor([1.0, 50.0], dtype=torch.float64))
    start = SNRMatch(encoder, correction=1.5)(_measured(2), PRIOR, GRID, _noise(2))
    assert bool(start.z.isfinite().all())


@pytest.mark.parametrize("correction", [0.0, 0.5, 1.2])
def test_consistent_mixing_has_the_noise_level_of_its_step(correction):
    """For ẑ = z0 + σ̂ e the start is distributed as q(z_k | z0): z - a z0 has variance b²."""
    var = torch.full((6,), 0.2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z0 = PRIOR.sample(6, 64, generator)
    error, noise = (torch.randn(z0.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    encoder = KnownSeverity(z0 + var[0].sqrt() * error, var)
    start = SNRMatch(encoder, correction, mixing="consistent")(_measured(6), PRIOR, GRID, noise)
    abar = GRID.abar[start.k[0]]
    assert start.k[0] == GRID.match((1 + correction) * var[:1])[0]
    measured = (start.z - abar.sqrt() * z0).var()
    assert float(measured / (1 - abar)) == pytest.approx(1, rel=0.03)


def test_consistent_mixing_has_no_ceiling():
    encoder = KnownSeverity(_noise(1), torch.tensor([50.0], dtype=torch.float64))
    start = SNRMatch(encoder, 1.2, mixing="consistent")(_measured(1), PRIOR, GRID, _noise(1))
    assert int(start.k[0]) > 700


def test_fixed_noises_the_estimate_to_its_step():
    z_hat, noise = _noise(2, 4), _noise(2)
    encoder = KnownSeverity(z_hat, torch.tensor([0.1, 0.9], dtype=torch.float64))
    start = Fixed(EncodedEstimate(encoder), 100)(_measured(2), PRIOR, GRID, noise)
    abar = GRID.abar[100]
    assert start.k.tolist() == [100, 100]
    torch.testing.assert_close(start.z, abar.sqrt() * z_hat + (1 - abar).sqrt() * noise)
    assert torch.equal(Fixed(EncodedEstimate(encoder), 0)(_measured(2), PRIOR, GRID, noise).z, z_hat)


def test_refuses_settings_out_of_range():
    encoder = KnownSeverity(_noise(1), torch.tensor([0.1]))
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="correction"):
            SNRMatch(encoder, bad)
    with pytest.raises(InputError, match="mixing"):
        SNRMatch(encoder, mixing="papr")
    with pytest.raises(InputError, match="start step is -1"):
        Fixed(EncodedEstimate(encoder), -1)
    with pytest.raises(InputError, match="schedule has 1000"):
        Fixed(EncodedEstimate(encoder), 1001)(_measured(1), PRIOR, GRID, _noise(1))


def test_a_regressed_estimate_is_encoded():
    image = PRIOR.decode(0.3 * _noise(2, 4)).clamp(0, 1)
    start = Fixed(RegressedEstimate(lambda y: image), 50)(_measured(2), PRIOR, GRID, _noise(2))
    abar = GRID.abar[50]
    torch.testing.assert_close(start.z, abar.sqrt() * PRIOR.encode(image) + (1 - abar).sqrt() * _noise(2))
    assert start.k.tolist() == [50, 50] and start.severity is None


def test_inversion_walks_each_image_to_its_own_step_and_back():
    """DDIM run backwards and then forwards is the identity, up to its step size."""
    var = torch.tensor([0.02, 0.3, 1.5], dtype=torch.float64)
    z_hat = PRIOR.sample(3, 16, torch.Generator().manual_seed(4))
    start = DDIMInversion(KnownSeverity(z_hat, var))(_measured(3), PRIOR, GRID, _noise(3))
    assert torch.equal(start.k, GRID.match(var)) and torch.equal(start.nfe, start.k)
    back = LatentDPS(PRIOR, Transition(GRID, 0.0), 0.0)
    for outcome in run([started(start.z, start.k, _measured(3), back)]):
        torch.testing.assert_close(outcome.z, z_hat[outcome.row], rtol=0.02, atol=0.02)
    # What is in the estimate is scaled as the toy's exact probability flow scales it: by the marginal's deviation.
    std = (start.z.flatten(2).std(dim=2) / z_hat.flatten(2).std(dim=2))[:, :, None]
    abar = GRID.abar[start.k].view(3, 1, 1)
    flow = ((abar * PRIOR.std.view(1, 12, 1) ** 2 + 1 - abar) / PRIOR.std.view(1, 12, 1) ** 2).sqrt()
    torch.testing.assert_close(std, flow, rtol=0.03, atol=0)


def test_inversion_does_not_depend_on_the_batch():
    var = torch.tensor([0.02, 0.3], dtype=torch.float64)
    z_hat = PRIOR.sample(2, 16, torch.Generator().manual_seed(4))
    both = DDIMInversion(KnownSeverity(z_hat, var))(_measured(2), PRIOR, GRID, _noise(2)).z
    for row in range(2):
        own = KnownSeverity(z_hat[[row]], var[[row]])
        torch.testing.assert_close(DDIMInversion(own)(_measured(1), PRIOR, GRID, _noise(1)).z[0], both[row])


def test_a_fixed_start_means_the_same_time_on_every_grid():
    noise, z_hat = _noise(1), _noise(1, 4)
    rule = Fixed(EncodedEstimate(KnownSeverity(z_hat, torch.tensor([0.1]))), 200)
    full = rule(_measured(1), PRIOR, GRID, noise)
    coarse = rule(_measured(1), PRIOR, PRIOR.schedule.grid(50), noise)
    assert (int(full.k[0]), int(coarse.k[0])) == (200, 10)
    torch.testing.assert_close(full.z, coarse.z)


def test_a_fixed_start_that_is_not_clean_makes_a_step_on_every_grid():
    rule = Fixed(EncodedEstimate(KnownSeverity(_noise(1), torch.tensor([0.1]))), 4)
    for steps, k in ((1000, 4), (500, 2), (100, 1), (7, 1)):
        assert int(rule(_measured(1), PRIOR, PRIOR.schedule.grid(steps), _noise(1)).k[0]) == k


class Mixes:
    """Measurements that are no images: pixels mixed by an orthonormal matrix, in a unit of their own."""

    matrix = 30 * torch.linalg.qr(torch.randn(768, 768, generator=torch.Generator().manual_seed(4)).double()).Q

    def A(self, x):
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y):
        return (y @ self.matrix).view(-1, 3, 16, 16)


@pytest.mark.parametrize("error", [0.05, 0.5])
def test_where_an_estimate_stands_for_y_its_residual_raises_the_start(error):
    z = PRIOR.sample(2, 16, torch.Generator().manual_seed(1))
    y = Mixes().A(PRIOR.decode(z))
    norms = torch.full((2,), 30.0, dtype=torch.float64)
    problem = Problem(y, Mixes(), lambda: (PRIOR.decode(z + error * _noise(2, 5)), norms))
    told = torch.full((2,), 0.04)
    found = explained(Severity(z, told), problem, PRIOR, _noise(2)).var
    torch.testing.assert_close(found, torch.full((2,), max(0.04, error**2)), rtol=0.15, atol=0)
    start = SNRMatch(KnownSeverity(z, told), mixing="consistent")(problem, PRIOR, GRID, _noise(2))
    torch.testing.assert_close(start.severity.var, found)
    image = PRIOR.decode(z)
    assert explained(Severity(z, told), Problem(image, GaussianBlur(0.0)), PRIOR, _noise(2)).var is told
