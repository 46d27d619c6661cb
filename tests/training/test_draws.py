"""A step's random numbers are a function of (seed, step) alone, however the rows are shared out."""

import torch

from flashdiffusion.training.draws import Draws, step_seed


def _draw(step: int = 3, rows: slice = slice(None), seed: int = 1) -> list[torch.Tensor]:
    draws = Draws(seed, step, 8, rows, "cpu")
    return [draws.normal(2, 3), draws.uniform(), draws.integers(1, 1001), draws.normal(4)]


def test_the_same_step_draws_the_same():
    for a, b in zip(_draw(), _draw(), strict=True):
        assert torch.equal(a, b)


def test_another_step_or_seed_draws_otherwise():
    for other in (_draw(step=4), _draw(seed=2)):
        assert not any(torch.equal(a, b) for a, b in zip(_draw(), other, strict=True))


def test_seeds_of_steps_do_not_meet():
    seeds = {step_seed(seed, step) for seed in range(4) for step in (0, 1, 10**6, 10**7)}
    assert len(seeds) == 16 and max(seeds) < 2**32


def test_processes_share_the_rows_of_one_batch():
    parts = [_draw(rows=slice(i, i + 2)) for i in range(0, 8, 2)]
    for whole, *shared in zip(_draw(), *parts, strict=True):
        assert torch.equal(torch.cat(shared), whole)


def test_values_are_in_their_ranges():
    _, uniform, integers, _ = _draw()
    assert bool(((uniform >= 0) & (uniform < 1)).all())
    assert integers.dtype == torch.int64 and bool(((integers >= 1) & (integers <= 1000)).all())
