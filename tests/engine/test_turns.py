"""Tiles of a large picture take turns with what comes after it."""

import threading
from types import SimpleNamespace

import pytest
import torch

from flashdiffusion import InputError
from flashdiffusion.engine.turns import MOST, in_turns
from flashdiffusion.methods import Settings
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.pipeline import Batch
from flashdiffusion.solvers.start import FromNoise
from local_model import local_pipeline

FEW = Settings(steps=4, guidance=0.5)


@pytest.fixture(scope="module")
def pipeline():
    return local_pipeline()


def _batch(name, side):
    y = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))
    return Batch([name], y, GaussianBlur(1.0, 0.05), FEW, method="latent-dps")


class Later:
    """Gives the first batches, the others once they are called for, and then ends."""

    def __init__(self, first, later):
        self.first, self.later, self.called, self.given = [*first], [*later], threading.Event(), threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        if self.first:
            return self.first.pop(0)
        assert self.called.wait(20)
        self.given.set()
        if self.later:
            return self.later.pop(0)
        raise StopIteration


def _order(pipeline, source, when, max_in_flight=4):
    """Results by name, in their order, and the names of each step; what is later comes at the step `when`."""
    steps = []

    def seen(step, estimates, ids):
        steps.append(ids)
        if step == when:
            source.called.set()
            assert source.given.wait(20)

    stream = pipeline.stream(source, live=True, tile=48, callback=seen, max_in_flight=max_in_flight)
    return {one.id: one for one in stream}, steps


def test_a_small_picture_is_done_before_the_tiles_of_a_large_one_that_came_first(pipeline):
    source = Later([_batch("large", 160)], [_batch("small", 16)])
    found, steps = _order(pipeline, source, 3)
    assert [*found] == ["small", "large"]
    large, small = found["large"], found["small"]
    assert large.tiles.nfe.numel() == 25 and large.failed is None
    last = max(n for n, ids in enumerate(steps) if "small" in ids)
    tiles_after = sum(ids.count("large") for ids in steps[last:])
    assert tiles_after > 50  # of 100 steps of tiles
    for one in (large, small):
        alone = next(pipeline.stream([_batch(one.id, one.image.shape[-1])], tile=48))
        torch.testing.assert_close(one.image, alone.image, rtol=0, atol=1e-4)


def test_two_large_pictures_share_the_slots(pipeline):
    stream = pipeline.stream([_batch("large", 160), _batch("later", 96)], live=True, tile=48, max_in_flight=4)
    assert [one.id for one in stream] == ["later", "large"]  # which has fewer tiles


def test_a_source_that_breaks_is_told_of_when_what_came_before_is_done(pipeline):
    def source():
        yield _batch("large", 100)
        raise OSError("gone")

    stream = pipeline.stream(source(), live=True, tile=48)
    assert next(stream).id == "large"
    with pytest.raises(OSError, match="gone"):
        next(stream)


def test_what_waits_for_slots_begins_no_more_and_nothing_is_waited_for_meanwhile():
    class Picture:
        flying, result = range(17), SimpleNamespace(failed=None)

    more, begun = threading.Event(), []

    def source():
        yield "large"
        more.wait(20)

    def begin(batch):
        for n in range(3):
            begun.append(n)
            yield [n], [Picture]

    found = in_turns(source(), begin)
    assert [next(found), next(found), next(found)] == [[0], None, None] and begun == [0]
    Picture.flying = range(16)
    assert [next(found), next(found)] == [[1], [2]]
    more.set()
    assert [*found] == [[]]


def test_a_picture_that_failed_waits_for_no_slots():
    class Picture:
        flying, result = range(17), SimpleNamespace(failed="no memory")

    begun = ([n] for n in range(2))
    assert [*in_turns(["large"], lambda batch: ((one, [Picture]) for one in begun))] == [[0], [1], []]


def test_pictures_that_are_being_cut_when_the_source_breaks_are_cut_to_the_end():
    def source():
        yield "a"
        yield "b"
        raise OSError("gone")

    found, begun = [], {"a": 4, "b": 2}
    with pytest.raises(OSError, match="gone"):
        for one in in_turns(source(), lambda name: (([f"{name}{n}"], []) for n in range(begun[name]))):
            found += one or []
    assert sorted(found) == ["a0", "a1", "a2", "a3", "b0", "b1"]


def test_a_start_that_breaks_leaves_other_pictures_alone():
    def begin(name):
        yield [f"{name}0"], []
        if name == "bad":
            raise OSError("no start")
        yield [f"{name}1"], []
        yield [f"{name}2"], []

    found = []
    with pytest.raises(OSError, match="no start"):
        for one in in_turns(["good", "bad"], begin):
            found += one or []
    assert {"good0", "good1", "good2", "bad0"} == {*found}


def test_no_more_pictures_are_cut_at_a_time_than_memory_bears():
    class Picture:
        flying, result = range(17), SimpleNamespace(failed=None)

    asked = []

    def source():
        for n in range(MOST + 5):
            asked.append(n)
            yield n

    found = in_turns(source(), lambda n: (([n], [Picture]) for _ in range(2)))
    begun = []
    while len(begun) < MOST:  # which the thread that asks decides
        begun += next(found) or []
    assert [next(found) for _ in range(100)] == [None] * 100
    assert asked == begun == [*range(MOST)]


@pytest.mark.parametrize("live", [True, False])
def test_a_start_that_has_no_room_for_all_tiles_is_made_in_parts(pipeline, live):
    """Results of an attempt that failed are not waited for."""
    calls = []

    class Narrow:
        def __call__(self, problem, prior, grid, noise):
            calls.append(len(problem))
            if len(problem) > 4:
                raise torch.OutOfMemoryError("full")
            return FromNoise()(problem, prior, grid, noise)

    batch = Batch(["large"], _batch("large", 256).y, GaussianBlur(1.0, 0.05), Settings(steps=2, guidance=0.5))
    [one] = pipeline.stream([batch], live=live, tile=48, start=Narrow(), solver="latent-dps")
    assert one.failed is None and one.image is not None and max(calls) > 4


def test_a_start_that_is_refused_ends_a_live_stream(pipeline):
    class Refused:
        def __call__(self, problem, prior, grid, noise):
            raise InputError("not of this kind")

    batch = Batch(["large"], _batch("large", 256).y, GaussianBlur(1.0, 0.05), FEW)
    [one] = pipeline.stream([batch], live=True, tile=48, start=Refused(), solver="latent-dps")
    assert "not of this kind" in one.failed
