"""A stream that is fed as requests come: they join those in flight, which wait for nobody."""

import queue
import threading

import pytest
import torch

from flashdiffusion.engine.cancellation import Cancellation
from flashdiffusion.engine.stream import Stream
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.pipeline import Batch, Failed
from flashdiffusion.solvers import LatentDPS, Problem, Transition
from local_model import local_pipeline
from toy import ToyPrior, run, started

FEW = Settings(steps=8, guidance=0.5)
METHOD = "latent-dps"


@pytest.fixture(scope="module")
def pipeline():
    return local_pipeline()


def _batch(name, method=METHOD, **more):
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(len(name)))
    return Batch([name], y, GaussianBlur(1.0, 0.05), FEW, method=method, **more)


class Feed:
    """An iterator that waits for what is put into it; None ends it."""

    def __init__(self):
        self.items = queue.Queue()
        self.put = self.items.put

    def __iter__(self):
        return iter(self.items.get, None)


def test_those_in_flight_do_not_wait_for_a_source_that_does(pipeline):
    feed = Feed()
    feed.put(_batch("a"))
    stream = pipeline.stream(feed, live=True)
    assert next(stream).id == "a"  # while the source waits
    feed.put(_batch("bb"))
    assert next(stream).id == "bb"
    feed.put(None)
    assert [*stream] == []


def test_what_comes_later_joins_what_is_stepping(pipeline, monkeypatch):
    feed, joined = Feed(), []

    def seen(step, estimates, ids):
        joined.append(ids)
        if step == 2:
            feed.put(_batch("bb"))
        if step == 4:
            assert arrived.wait(10)

    arrived, kept = threading.Event(), Stream._kept

    def noted(self, begun):
        found = kept(self, begun)
        if any(one.result.id == "bb" for one in found):
            arrived.set()  # its start is made
        return found

    monkeypatch.setattr(Stream, "_kept", noted)

    feed.put(_batch("a"))
    stream = pipeline.stream(feed, live=True, callback=seen, max_in_flight=4)
    first = next(stream)
    feed.put(None)
    rest = [*stream]
    assert (first.id, [one.id for one in rest]) == ("a", ["bb"])
    assert ["a", "bb"] in joined
    alone = next(pipeline.stream([_batch("bb")]))
    torch.testing.assert_close(rest[0].image, alone.image)


@pytest.mark.parametrize("bad", [Failed("x", "no such file"), None])
def test_what_fails_before_its_start_is_given_at_once(pipeline, bad):
    feed = Feed()
    y = torch.full((1, 3, 16, 16), float("nan"))
    feed.put(bad or Batch(["x"], y, GaussianBlur(1.0, 0.05)))
    stream = pipeline.stream(feed, live=True)
    assert next(stream).failed == (
        bad.reason if bad else "NaN or infinite values in the measurement; expected finite numbers"
    )
    feed.put(None)
    assert [*stream] == []


def test_batches_have_a_method_and_a_seed_of_their_own(pipeline):
    own = [_batch("a", seed=3), _batch("a", "gml-dps", seed=3), _batch("a", "flash(latent-dps)"), _batch("a", None)]
    streams = [
        pipeline.stream([_batch("a", None)], method=method, seed=seed)
        for method, seed in ((METHOD, 3), ("gml-dps", 3), ("flash(latent-dps)", 5), ("ae", 5))
    ]
    expected = {n: next(one) for n, one in enumerate(streams)}
    together = pipeline.stream(own, method="ae", seed=5)
    for one in together:
        torch.testing.assert_close(one.image, expected[one.index].image)
        assert (one.nfe, one.start_step) == (expected[one.index].nfe, expected[one.index].start_step)


def test_a_wrong_method_fails_its_batch_alone(pipeline):
    found = {one.id: one.failed for one in pipeline.stream([_batch("a"), _batch("bb", "flash(nothing)")])}
    assert found["a"] is None and "unknown method 'flash(nothing)'" in found["bb"]


def test_cancelled_images_leave_before_their_next_step(pipeline):
    cancellations, steps = [Cancellation(), Cancellation()], []

    def seen(step, estimates, ids):
        steps.append(ids)
        if step == 3:
            cancellations[0].cancel("not wanted")
            cancellations[0].cancel("too late")

    batches = [_batch("a", cancellations=cancellations[:1]), _batch("bb", cancellations=cancellations[1:])]
    gone = Cancellation("never wanted")
    batches.append(_batch("ccc", cancellations=[gone]))
    found = {one.id: one for one in pipeline.stream(batches, callback=seen, max_in_flight=4)}
    assert {id: one.failed for id, one in found.items()} == {"a": "not wanted", "bb": None, "ccc": "never wanted"}
    assert found["a"].nfe < 8 == found["bb"].nfe and not any("ccc" in ids for ids in steps)


def test_a_cancellation_for_each_image():
    with pytest.raises(InputError, match="2 cancellations for 1 images"):
        _batch("a", cancellations=[None, None])


def test_a_source_may_say_that_there_is_nothing_at_the_moment():
    prior = ToyPrior()
    solver = LatentDPS(prior, Transition(prior.schedule.grid(20)), 0.5)
    z = torch.zeros(1, 12, 8, 8, dtype=torch.float64)
    problem = _toy_problem(prior)
    moved = []

    def source():
        yield started(z, torch.tensor([3]), problem, solver)
        while len(moved) < 2:
            yield None
        yield started(z, torch.tensor([2]), problem, solver, [1])

    done = [*run(source(), 4, moved.append)]
    assert [one.result.nfe for one in done] == [3, 2] or [one.result.nfe for one in done] == [2, 3]
    assert moved[:2] == [1, 1] and 2 in moved


def _toy_problem(prior):
    x = prior.decode(prior.sample(1, 16, torch.Generator().manual_seed(0)))
    physics = GaussianBlur([1.0], 0.05)
    return Problem(physics(x, torch.Generator().manual_seed(1)), physics)
