"""A journal takes over what an earlier run has done, whenever that was killed."""

import json

import pytest

from flashdiffusion.errors import InputError
from flashdiffusion.jobs.journal import Journal

ABOUT = {"model": "tiny", "seed": 0, "settings": {"eta": 1.0, "steps": None}}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results.json"


def _begun(out, *names, about=ABOUT, resume=False):
    """A run that was killed after these images."""
    journal = Journal(out, about, resume)
    for name in names:
        journal.add({"id": name, "psnr": 20.5})
    journal.close()
    return journal


def _report(journal, failed=()):
    return {**ABOUT, "records": list(journal.done.values()), "failed": [{"id": n, "reason": "why"} for n in failed]}


def test_nothing_is_written_before_the_first_record(out, tmp_path):
    Journal(out, ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_every_record_is_on_disk_at_once(out):
    journal = Journal(out, ABOUT)
    journal.add({"id": "a", "psnr": None})
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert lines == [{"about": ABOUT, "afresh": True}, {"id": "a", "psnr": None}]
    journal.close()


def test_what_an_earlier_run_has_done_is_taken_over(out):
    _begun(out, "a", "b")
    assert list(_begun(out, "c", resume=True).done) == ["a", "b", "c"]
    assert list(Journal(out, ABOUT, resume=True).done) == ["a", "b", "c"]
    assert list(_begun(out, "d").done) == ["d"], "without resume, afresh"
    assert list(Journal(out, ABOUT, resume=True).done) == ["d"]


@pytest.mark.parametrize("cut", range(1, 23))
def test_a_kill_in_the_middle_of_a_line_loses_that_line_alone(out, cut):
    journal = _begun(out, "a", "b")
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    again = _begun(out, "c", resume=True)
    assert list(again.done) == ["a", "c"]
    assert list(Journal(out, ABOUT, resume=True).done) == ["a", "c"]
    assert all(json.loads(line) for line in journal.path.read_text().splitlines())


def test_a_kill_in_the_first_line_leaves_nothing(out):
    journal = _begun(out, "a")
    journal.path.write_bytes(journal.path.read_bytes()[:10])
    assert list(_begun(out, "b", resume=True).done) == ["b"]
    assert list(Journal(out, ABOUT, resume=True).done) == ["b"]


def test_the_results_take_the_journals_place_and_the_failed_are_to_be_done_again(out):
    journal = _begun(out, "a", "b")
    journal.finish(_report(journal, failed=["b"]))
    assert out.exists() and not journal.path.exists()
    again = Journal(out, ABOUT, resume=True)
    assert list(again.done) == ["a"]
    again.add({"id": "c"})
    again.close()
    assert list(Journal(out, ABOUT, resume=True).done) == ["a", "c"], "results and journal together"


def test_results_that_a_run_afresh_replaces_are_not_taken_over(out):
    journal = _begun(out, "a", "b")
    journal.finish(_report(journal))
    _begun(out, "b")
    assert list(_begun(out, "c", resume=True).done) == ["b", "c"]
    assert list(Journal(out, ABOUT, resume=True).done) == ["b", "c"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, r"another seed \(0, now 1\); give the same options"),
        ({"model": None}, r"another model \(tiny, now none\)"),
        (
            {"settings": {"eta": 2.0, "steps": 5}},
            r"another settings eta \(1.0, now 2.0\), settings steps \(none, now 5\)",
        ),
        ({"task": "jpeg"}, r"another task \(none, now jpeg\)"),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_a_run_about_something_else_is_refused(out, change, reason, ended):
    journal = _begun(out, "a")
    if ended:
        journal.finish(_report(journal))
    kept = {path: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(InputError, match=reason):
        Journal(out, ABOUT | change, resume=True)
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == kept
    Journal(out, ABOUT | change)  # afresh


@pytest.mark.parametrize("text", ["words", "[]", "{}", '{"records": 3}', '{"records": [{"psnr": 3}]}'])
def test_a_file_of_another_kind_is_refused(out, text):
    out.write_text(text)
    with pytest.raises(InputError, match=r"results\.json"):
        Journal(out, ABOUT, resume=True)


def test_a_results_file_by_the_journals_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.jsonl"):
        Journal(tmp_path / "results.jsonl", ABOUT)
