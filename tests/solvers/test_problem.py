"""A problem reaches every start rule and estimate, and is shown as an image once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flashdiffusion import GaussianBlur, Settings
from flashdiffusion.jobs import Item, ModelChoice, RestoreJob
from flashdiffusion.pipeline import Batch
from flashdiffusion.solvers import Fixed, Problem, Start, register_start, setting
from flashdiffusion.solvers.registry import STARTS

FEW = Settings(steps=4, correction=1.0, start_step=1)
DOCS = Path(__file__).parents[2] / "docs"


class Halves:
    """An operator of a user: the sum of the upper and the lower half, which looks like no image of its size."""

    noise_std = 0.0

    def A(self, x):
        return x.chunk(2, dim=2)[0] + x.chunk(2, dim=2)[1]

    def A_adjoint(self, y):
        return torch.cat([y, y], dim=2)


@pytest.fixture
def shown(monkeypatch):
    """Counts the images that measurements are shown as."""
    counts = []
    original = GaussianBlur.image

    def image(self, y):
        counts.extend([1] * len(y))
        return original(self, y)

    monkeypatch.setattr(GaussianBlur, "image", image)
    return counts


def _measured(count=2):
    physics = GaussianBlur([1.0] * count)
    return physics(torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))), physics


@pytest.mark.parametrize("method", ["flash(latent-dps)", "flash(proximal)", "ccdf(psld)", "ae", "swinir"])
def test_a_measurement_is_shown_as_an_image_once(tiny_pipeline, shown, method):
    y, physics = _measured()
    tiny_pipeline(y, physics, method=method, settings=FEW)
    assert len(shown) == 2
    list(tiny_pipeline.stream([Batch(["a", "b"], y, physics, FEW)], method=method, max_in_flight=1))
    assert len(shown) == 4
    tiny_pipeline(y, physics, method=method, settings=FEW, num_samples=3)
    assert len(shown) == 6


def test_a_file_is_shown_as_an_image_once(tiny_model, image_folder, shown):
    job = RestoreJob(ModelChoice(str(tiny_model)), physics="gaussian-blur:std=1", given={"steps": 4})
    items = [Item(i, f"image-{i:02d}", str(image_folder / f"image-{i:02d}.png")) for i in range(3)]
    assert [done.reason for done in job.open()(items)] == [None] * 3
    assert len(shown) == 3


def test_what_is_taken_and_joined_carries_the_image(shown):
    y, physics = _measured(3)
    problem = Problem(y, physics)
    assert torch.equal(problem.take(torch.tensor([1])).image, y[1:2]) and len(shown) == 1  # nothing to carry yet
    whole = problem.image
    parts = [problem.take(torch.tensor(rows)) for rows in ([2], [0, 1])]
    joined = Problem.join([part.to("cpu", torch.float64) for part in parts])
    assert torch.equal(joined.image, whole[[2, 0, 1]].double())
    assert len(shown) == 4


def test_a_users_start_from_the_adjoint(tiny_pipeline):
    @register_start("adjoint")
    @dataclass(frozen=True)
    class FromAdjoint:
        scale: float = setting(0.5, "Factor on Aᵀy.")

        def __call__(self, problem, prior, grid, noise):
            z = prior.encode((self.scale * problem.adjoint(problem.y)).clamp(0, 1))
            return Start(z, torch.zeros(len(problem), dtype=torch.int64))

    try:
        y = Halves().A(torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0)))
        restored = tiny_pipeline(y, Halves(), start="adjoint", solver="prior", scale=0.25)
    finally:
        del STARTS["adjoint"]
    prior = tiny_pipeline.prior
    expected = prior.decode(prior.encode((0.25 * torch.cat([y, y], dim=2)).clamp(0, 1))).clamp(0, 1)
    torch.testing.assert_close(restored.images, expected)


def test_the_estimate_of_the_documentation(tiny_pipeline):
    page = (DOCS / "degradations.md").read_text()
    (code,) = (block for block in page.split("```python\n")[1:] if "def backprojected" in block)
    y = Halves().A(torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0)))
    names = {"pipe": tiny_pipeline, "y": y, "physics": Halves()}
    exec(code.split("```")[0].replace("start_step=200", "start_step=2"), names)
    assert names["restoration"].nfe.tolist() == [2, 2]
    rule, prior = Fixed(names["backprojected"], 0), tiny_pipeline.prior
    start = rule(Problem(y, Halves()), prior, prior.schedule.grid(), torch.zeros(1))
    assert torch.equal(start.z, prior.encode(torch.cat([y, y], dim=2).clamp(0, 1)))
