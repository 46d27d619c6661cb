"""What was checked and computed when a physics was made is never done again, and no step waits for the device."""

import pytest
import torch

from examples import examples
from flashdiffusion.physics import (
    HDR,
    JPEG,
    BatchedPhysics,
    BoxInpainting,
    Compose,
    GaussianBlur,
    Mixed,
    blur,
    concatenate,
    is_linear,
)
from flashdiffusion.pipeline import Batch
from flashdiffusion.solvers import LatentDPS, Problem, Transition
from toy import ToyPrior, run, started

SIZE = (24, 20)
PRIOR = ToyPrior()
SOLVER = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(20)), 0.5)


def _physics() -> list[BatchedPhysics]:
    holes = BoxInpainting([1, 2, 3], 2, 4, 4)
    return [
        GaussianBlur([0.5, 1.0, 1.5]),
        Compose(GaussianBlur([1.0, 1.2, 1.4]), JPEG(50)),
        holes,
        HDR([1.0, 2.0, 3.0]),
    ]


def test_the_engine_rebuilds_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    batches = []
    for physics in [*_physics(), concatenate(_physics())]:
        count = len(physics)
        problem = Problem(physics(torch.rand(count, 3, 16, 16, generator=generator, dtype=torch.float64)), physics)
        problem.measure(problem.image)
        z = torch.randn(count, 12, 8, 8, generator=generator, dtype=torch.float64)
        batches.append(started(z, torch.arange(3, 3 + count), problem, SOLVER))

    def again(*_: object, **__: object) -> None:
        raise AssertionError("rebuilt")

    for cls in (BatchedPhysics, Compose, Mixed, GaussianBlur, BoxInpainting, JPEG, HDR):
        monkeypatch.setattr(cls, "__init__", again)
    monkeypatch.setattr(blur, "filter_matrix", again)
    monkeypatch.setattr(BoxInpainting, "_mask", again)
    monkeypatch.setattr(JPEG, "_table", again)
    outcomes = list(run(batches, max_in_flight=4))
    assert len(outcomes) == 24 and [one.result.failed for one in outcomes if one.result.failed] == []


def test_a_stream_computes_a_matrix_once_for_each_image(monkeypatch, tiny_pipeline):
    made = []
    build = blur.filter_matrix
    monkeypatch.setattr(blur, "filter_matrix", lambda std, size: made.append(len(std)) or build(std, size))
    y = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = [Batch(["a", "b", "c"], y, GaussianBlur(std)) for std in ([0.5, 1.0, 2.0], 1.0)]
    restored = list(tiny_pipeline.stream(batches, start="noise", max_in_flight=2, steps=4))
    assert [one.failed for one in restored] == [None] * 6 and sum(made) == 6


EXAMPLES = [one for made in examples(SIZE).values() for one in made]


@pytest.mark.parametrize("one", EXAMPLES, ids=lambda one: one.describe()[0]["physics"])
def test_no_value_is_asked_of_the_device(one):
    """Tensors on the meta device have none."""
    blurred = GaussianBlur(1.0)
    if one.A(torch.rand(4, 3, *SIZE)).shape[2:] == SIZE:
        one = concatenate([one, blurred])  # two kinds in one batch
    x = torch.rand(len(one), 3, *SIZE)
    y = one(x)
    looked, adjoint = one.image(y), one.A_adjoint(y) if is_linear(one) else x
    moved = one.to("meta")
    moved = concatenate([moved.take(torch.tensor([row])) for row in range(len(one))])
    assert moved.A(x.to("meta")).shape == y.shape
    if one.gain is None:  # photons are counted where the generator is
        assert moved(x.to("meta"), torch.Generator()).shape == y.shape
    assert Problem(y.to("meta"), moved).noise_variance.shape == (len(one),)
    assert moved.image(y.to("meta")).shape == looked.shape
    if is_linear(moved):
        assert moved.A_adjoint(y.to("meta")).shape == adjoint.shape
