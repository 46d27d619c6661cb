import pytest
import torch
from diffusers import DDIMScheduler

from flashdiffusion.errors import InputError
from flashdiffusion.schedule import NoiseSchedule
from toy import COMPVIS

SCHEDULE = NoiseSchedule.from_config(COMPVIS)


def test_abar_is_that_of_diffusers_with_a_clean_end_before_it():
    expected = DDIMScheduler(**COMPVIS).alphas_cumprod.double()
    assert SCHEDULE.abar[0] == 1
    torch.testing.assert_close(SCHEDULE.abar[1:], expected)


@pytest.mark.parametrize("steps", [None, 500, 100, 20, 7, 1])
def test_match_inverts_the_variance_at_every_step(steps):
    grid = SCHEDULE.grid(steps)
    abar = grid.abar[1:]
    variance = (1 - abar) / abar  # 1 / snr
    assert bool((abar.diff() < 0).all()), "the SNR falls with every step"
    assert torch.equal(grid.match(variance), torch.arange(1, len(grid) + 1))


def test_match_on_the_published_schedule():
    variance = torch.tensor([0.05, 0.1, 0.21, 0.30, 0.5, 0.8, 1.0, 1.44, 7.6])
    # 0.21 lies at i = 99.5: both neighbours are within rounding of the published 100.
    expected = torch.tensor([30, 55, 100, 128, 177, 229, 255, 300, 500])
    assert int((SCHEDULE.grid().match(variance) - expected).abs().max()) <= 1


def test_match_of_the_extremes():
    assert SCHEDULE.grid().match(torch.tensor([0.0, 1e-30, 1e6])).tolist() == [1, 1, 1000]


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_match_refuses_what_is_no_variance(bad):
    with pytest.raises(InputError, match="severity"):
        SCHEDULE.grid().match(torch.tensor([0.1, bad]))


@pytest.mark.parametrize("steps", [1, 3, 100, 300, 1000])
def test_grid_runs_from_clean_to_noise(steps):
    grid = SCHEDULE.grid(steps)
    assert len(grid) == steps
    assert grid.times[0] == 0 and grid.times[-1] == 1000
    assert bool((grid.times.diff() > 0).all())


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_grid_refuses_steps_out_of_range(steps):
    with pytest.raises(InputError, match="steps"):
        SCHEDULE.grid(steps)


@pytest.mark.parametrize("abar", [[0.5, 0.5], [0.4, 0.6], [1.0, 0.5], [0.5, 0.0], []])
def test_schedule_refuses_what_does_not_fall(abar):
    with pytest.raises(InputError, match="schedule"):
        NoiseSchedule(torch.tensor(abar))


def test_a_geometric_grid_has_noise_that_falls_by_a_constant_factor():
    grid = NoiseSchedule.from_config(COMPVIS).geometric(18, 0.05)
    sigma = ((1 - grid.abar[1:]) / grid.abar[1:]).sqrt()
    assert int(grid.times[0]) == 0 and int(grid.times[-1]) == 1000 and len(grid) == 18
    assert float(sigma[0]) == pytest.approx(0.05, rel=0.1)
    ratios = sigma[1:] / sigma[:-1]
    assert float(ratios.max() / ratios.min()) < 1.25  # times are whole numbers
    fine = NoiseSchedule.from_config(COMPVIS).geometric(1000, 0.05)
    assert bool((fine.times.diff() > 0).all())  # none twice
    with pytest.raises(InputError, match="steps is 0; expected at least 1"):
        NoiseSchedule.from_config(COMPVIS).geometric(0)


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=["flow", "zero terminal SNR", "cosine"],
)
def test_a_schedule_without_signal_at_its_end_spends_its_levels_where_there_is_some(config):
    """Two thirds below b / a = 10, as the logarithm from 0.1 to 100 has it, whatever the floor is."""
    schedule = NoiseSchedule.from_config(config)
    grid = schedule.geometric(18)
    sigma = ((1 - grid.abar[1:]) / grid.abar[1:]).sqrt()
    assert int((sigma < 10).sum()) >= 11 and int(grid.times[-1]) == len(schedule)
    assert int((sigma > 150).sum()) == 1
    assert schedule.geometric(1).times.tolist() == [0, len(schedule)]
