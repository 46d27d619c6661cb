"""The search: what it tries, what is best, when a trial ends, and that a kill costs nothing."""

import math

import pytest
import torch
from test_plan import MEASURED, plan_of

from flashdiffusion.errors import InputError
from flashdiffusion.experiments.aim import Aim
from flashdiffusion.experiments.tune import COMPLETE, FAILED, JUDGED, OVER, PRUNED, Search
from flashdiffusion.jobs.measuring import Evaluated
from flashdiffusion.record import Record

IMAGE = torch.zeros(3, 8, 8)


class Toy:
    """Measures LPIPS (trust - 4)², more on some images than on others; NFE is c; may be killed.

    calls: the settings and image of every measurement. kill: how many there are before it is killed.
    """

    def __init__(self, kill=math.inf, diverges=lambda settings: False, unreadable=()):
        self.calls, self.kill, self.diverges, self.unreadable = [], kill, diverges, unreadable

    def __call__(self, settings, rows):
        for row in rows:
            if len(self.calls) >= self.kill:
                raise KeyboardInterrupt
            self.calls.append((settings, row))
            if row in self.unreadable:
                yield Evaluated(row, str(row), failed="no image")
                continue
            if self.diverges(settings):
                yield Evaluated(row, str(row), clean=IMAGE, failed="it diverged")
                continue
            lpips = 0.1 * (settings.trust - 4) ** 2 + 0.3 * math.sin(row) ** 2
            figures = {"psnr": 30 - lpips, "ssim": 0.5, "lpips": lpips}
            yield Evaluated(row, str(row), Record(str(row), metrics=figures, nfe=settings.correction), IMAGE)


def _search(path, plan, objective="lpips", prune=True, about=None, **budget):
    path.mkdir(exist_ok=True)
    return Search.open(path / "tune.jsonl", about or {}, plan, Aim.of(objective, MEASURED, budget), 3, prune)


def test_a_better_setting_is_found_than_a_bad_default(tmp_path):
    plan, toy = plan_of(ranges="trust=1:12", trust=11.0), Toy()
    search = _search(tmp_path, plan)
    trials = list(search.run(25, range(8), toy))
    best = search.best()
    assert trials[0].settings.trust == 11 and trials[0].state == COMPLETE, "it begins with the present settings"
    assert abs(best.settings.trust - 4) < 0.5 and best.state == COMPLETE
    assert best.objective == min(trial.objective for trial in trials) and best.mean["images"] == 8
    assert len({trial.settings for trial in trials}) == 25


def test_bad_trials_end_early_and_are_estimated_from_the_images_that_they_share_with_the_best(tmp_path):
    plan, toy = plan_of(grid="trust=1,2,3,4,5,6,9"), Toy()
    search = _search(tmp_path / "a", plan)
    trials = list(search.run(7, range(16), toy))
    pruned = [trial for trial in trials if trial.state == PRUNED]
    assert len(pruned) >= 3 and all(trial.mean["images"] == JUDGED for trial in pruned)
    assert len(toy.calls) == 16 * 7 - (16 - JUDGED) * len(pruned)
    assert search.best().settings.trust == 4
    whole = Toy()
    every = {one.settings: one for one in _search(tmp_path / "b", plan, prune=False).run(7, range(16), whole)}
    assert len(whole.calls) == 16 * 7 and {one.state for one in every.values()} == {COMPLETE}
    for trial in pruned:
        assert trial.objective == pytest.approx(every[trial.settings].objective, abs=1e-5)


@pytest.mark.parametrize("objective", ["psnr", "lpips=1 psnr=-1"])
def test_pruning_and_the_best_go_by_the_objectives_direction(tmp_path, objective):
    search = _search(tmp_path, plan_of(grid="trust=1,2,3,4,5,6,9"), objective)
    trials = list(search.run(7, range(8), Toy()))
    assert search.best().settings.trust == 4 and {trial.state for trial in trials} == {COMPLETE, PRUNED}


def test_the_best_is_within_the_budget_and_what_is_far_over_it_ends_early(tmp_path):
    plan, toy = plan_of(grid="correction=2,5,5.5,40 trust=4,5"), Toy()
    search = _search(tmp_path, plan, prune=False, nfe=5.0)
    trials = {(one.settings.correction, one.settings.trust): one for one in search.run(8, range(16), toy)}
    assert {key[0]: one.state for key, one in trials.items()} == {2: COMPLETE, 5: COMPLETE, 5.5: OVER, 40: OVER}
    assert trials[40, 4].mean["images"] == JUDGED and trials[5.5, 4].mean["images"] == 16
    best = search.best()
    assert best.settings.trust == 4 and best.mean["nfe"] <= 5


def test_if_all_are_over_the_budget_the_cheapest_is_named(tmp_path):
    search = _search(tmp_path, plan_of(grid="correction=40,8,20"), nfe=5.0)
    assert {trial.state for trial in search.run(3, range(8), Toy())} == {OVER}
    reason = "no trial is within the budget of nfe 5; the cheapest takes nfe 8: correction=8.0"
    with pytest.raises(InputError, match=reason):
        search.best()


def test_a_trial_that_diverged_is_never_the_best(tmp_path):
    plan = plan_of(grid="trust=4,9")
    search = _search(tmp_path, plan)
    trials = list(search.run(2, range(4), Toy(diverges=lambda settings: settings.trust == 4)))
    (lost,) = (trial for trial in trials if trial.state == FAILED)
    assert lost.mean["psnr"] is lost.mean["lpips"] is lost.objective is None
    assert search.best().settings.trust == 9
    search = _search(tmp_path / "b", plan)
    list(search.run(2, range(4), Toy(diverges=lambda settings: True)))
    with pytest.raises(InputError, match="no trial has a finite lpips"):
        search.best()


def test_an_image_that_cannot_be_read_is_left_out_of_every_trial(tmp_path):
    search = _search(tmp_path, plan_of(grid="trust=4,5"))
    trials = list(search.run(2, range(6), Toy(unreadable=(0, 5))))
    assert all(trial.mean["images"] == (4 if trial.state == COMPLETE else 3) for trial in trials)
    assert search.best().settings.trust == 4
    with pytest.raises(InputError, match="none of the images can be read"):
        list(_search(tmp_path / "b", plan_of(grid="trust=4,5")).run(2, range(2), Toy(unreadable=(0, 1))))


def test_the_same_settings_are_not_measured_twice(tmp_path):
    toy = Toy()
    trials = list(_search(tmp_path, plan_of("ccdf(latent-dps)", ranges="start_step=1:2")).run(8, range(4), toy))
    assert len(trials) == 8 and len(toy.calls) == len(set(toy.calls)) == 8


# -- a kill -----------------------------------------------------------------------------------------------


def _trials(search):
    return [trial.to_json() for trial in search.trials]


def test_a_killed_search_goes_on_to_the_same_trials_and_measures_nothing_twice(tmp_path):
    plan, trials, images = plan_of(ranges="trust=1:12 correction=1:6", trust=11.0), 13, range(8)
    whole = Toy()
    expected = _search(tmp_path / "whole", plan, nfe=4.0)
    list(expected.run(trials, images, whole))
    calls = []
    while True:  # a kill after every seventh image, in the middle of a line; trials are of 4 or 8
        toy = Toy(kill=7)
        search = _search(tmp_path / "killed", plan, nfe=4.0)
        try:
            list(search.run(trials, images, toy))
            break
        except KeyboardInterrupt:
            with (tmp_path / "killed" / "tune.jsonl").open("a") as journal:
                journal.write('{"op_code":8,"worker_id":"half a li')
            (tmp_path / "killed" / "tune.jsonl.lock").touch()
        finally:
            calls += toy.calls
    assert _trials(search) == _trials(expected) and len(_trials(search)) == trials
    assert len(calls) == len(set(calls)) and sorted(calls, key=str) == sorted(whole.calls, key=str)
    assert {one["state"] for one in _trials(search)} >= {COMPLETE, OVER}


def test_a_kill_at_any_line_of_the_journal_changes_no_trial(tmp_path):
    """Each line is on disk before the next is begun, so that a kill leaves the first lines of the journal."""
    plan, images = plan_of(ranges="trust=1:12", trust=11.0), range(8)
    expected = _search(tmp_path, plan, nfe=5.0)
    list(expected.run(4, images, Toy()))
    lines = (tmp_path / "tune.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) > 60
    (tmp_path / "cut").mkdir()
    for kept in range(0, len(lines), 5):
        (tmp_path / "cut" / "tune.jsonl").write_bytes(b"".join(lines[:kept]))
        search = _search(tmp_path / "cut", plan, nfe=5.0)
        list(search.run(4, images, Toy()))
        assert _trials(search) == _trials(expected), kept


def test_a_search_is_continued_by_its_own_plan_and_for_more_trials(tmp_path):
    search = _search(tmp_path, plan_of(ranges="trust=1:12", trust=11.0))
    first = list(search.run(3, range(4), Toy()))
    again, toy = _search(tmp_path, plan_of(ranges="trust=1:12", trust=2.0)), Toy()
    more = list(again.run(5, range(4), toy))
    assert (
        again.trials == first + more
        and len(more) == 2
        and {settings.trust for settings, _ in toy.calls}.isdisjoint(trial.settings.trust for trial in first)
    )


def test_the_journal_of_another_search_or_of_something_else_is_refused_and_kept(tmp_path):
    plan = plan_of(grid="trust=4")
    about = {"seed": 1, "budget": {"nfe": 5.0}}
    list(_search(tmp_path, plan, about=about).run(1, range(2), Toy()))
    with pytest.raises(InputError, match=r"another seed \(1, now 2\), budget nfe \(5.0, now none\)"):
        _search(tmp_path, plan, about={"seed": 2, "budget": {"nfe": None}})
    assert len(_search(tmp_path, plan, about=about).trials) == 1
    for text in ('{"about": {}}\n{"id": "a"}\n{"id', "words", '{"op_code":77,"worker_id":"w"}\n'):
        (tmp_path / "tune.jsonl").write_text(text)
        with pytest.raises(InputError, match="no journal of a search"):
            _search(tmp_path, plan)
        assert (tmp_path / "tune.jsonl").read_text().startswith(text)
