import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from flashdiffusion.errors import InputError
from flashdiffusion.schedule import NoiseSchedule
from flashdiffusion.solvers import Transition
from toy import COMPVIS, ToyPrior

SCHEDULE = NoiseSchedule.from_config(COMPVIS)


def _random(*shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("delta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1000, 100, 20])
def test_equals_diffusers_ddim_at_every_step_the_last_included(delta, steps):
    scheduler = DDIMScheduler(**COMPVIS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    transition = Transition(SCHEDULE.grid(steps), delta)
    z, eps, noise = _random(1, 2, 4, 4)
    for k in {1, 2, steps // 2, steps - 1, steps}:
        i = int(transition.grid.times[k])
        abar = SCHEDULE.abar[i]
        z0 = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
        expected = scheduler.step(eps, i - 1, z, eta=delta, variance_noise=noise).prev_sample
        ours = transition(z, z0, torch.tensor([k]), noise)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_equals_diffusers_ddpm_ancestral_step():
    scheduler = DDPMScheduler(**COMPVIS, clip_sample=False, variance_type="fixed_small")
    transition = Transition(SCHEDULE.grid(), 1.0)
    z, eps, _ = _random(1, 2, 4, 4)
    for i in (1, 2, 500, 1000):
        abar = SCHEDULE.abar[i]
        z0 = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
        generator = torch.Generator().manual_seed(7)
        expected = scheduler.step(eps, i - 1, z, generator=generator).prev_sample
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(7), dtype=z.dtype)
        ours = transition(z, z0, torch.tensor([i]), noise)
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_rows_stand_at_times_of_their_own():
    transition = Transition(SCHEDULE.grid(), 0.5)
    z, z0, noise = _random(4, 2, 4, 4)
    k = torch.tensor([1, 30, 500, 1000])
    together = transition(z, z0, k, noise)
    for row in range(4):
        alone = transition(z[row : row + 1], z0[row : row + 1], k[row : row + 1], noise[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_marginals_of_the_exact_gaussian_prior(delta):
    """From N(0, a²s² + b²) at k, all the way down, the exact denoiser leads to N(0, s²)."""
    prior = ToyPrior()
    transition = Transition(prior.schedule.grid(), delta)
    generator = torch.Generator().manual_seed(0)
    z = prior.sample(40, 32, generator)
    start = 400
    abar = prior.abar[start]
    z = abar.sqrt() * z + (1 - abar).sqrt() * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    for i in range(start, 0, -1):
        k = torch.full((len(z),), i)
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        z = transition(z, prior.denoise(z, k), k, noise)
    measured = z.transpose(0, 1).flatten(1).std(dim=1)
    torch.testing.assert_close(measured, prior.std.flatten(), rtol=0.03, atol=0)


@pytest.mark.parametrize("delta", [-0.1, 1.1, float("nan")])
def test_refuses_delta_out_of_range(delta):
    with pytest.raises(InputError, match="delta"):
        Transition(SCHEDULE.grid(), delta)
