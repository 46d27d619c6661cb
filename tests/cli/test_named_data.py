"""`--data NAME:PATH` and `--split` on the command line."""

import json
import shutil

import pytest

from flashdiffusion.data.named import DATA

TEST, VAL = DATA["celebahq"].ids("test")[:3], DATA["celebahq"].ids("val")[:3]


@pytest.fixture
def faces(tmp_path, image_folder):
    """The first three images of both lists, and four more."""
    folder = tmp_path / "faces" / "celeba_hq_256"
    folder.mkdir(parents=True)
    images = sorted(image_folder.iterdir())
    for id, image in zip([*TEST, *VAL, "00000", "00001", "00002", "00003"], images[:10], strict=True):
        assert not (folder / f"{id}.png").exists()
        shutil.copy(image, folder / f"{id}.png")
    return tmp_path / "faces"


@pytest.fixture
def evaluate(flash, faces, tiny_model, tmp_path):
    def run(*options, data=None):
        common = ("--model", tiny_model, "--method", "ae", "--out", tmp_path / "results.json")
        return flash("evaluate", "--data", data or f"celebahq:{faces}", *common, *options)

    return run


def _results(tmp_path):
    return json.loads((tmp_path / "results.json").read_text())


def test_records_carry_the_published_ids_in_their_order(evaluate, tmp_path, faces):
    ended = evaluate("--limit", 3)
    assert ended.code == 0, ended.err
    results = _results(tmp_path)
    assert [row["id"] for row in results["records"]] == TEST
    assert (results["data"], results["split"]) == ([f"celebahq:{faces}"], "test")
    assert evaluate("--limit", 2, data=faces).code == 0
    assert "split" not in _results(tmp_path)


def test_another_split_is_not_continued(evaluate, tmp_path, faces):
    assert evaluate("--limit", 2).code == 0
    ended = evaluate("--limit", 3, "--resume", data=f"celebahq:{faces}/celeba_hq_256/..")
    assert ended.code == 0 and [row["id"] for row in _results(tmp_path)["records"]] == TEST
    ended = evaluate("--limit", 2, "--resume", "--split", "val")
    assert ended.code == 2 and "another split (test, now val)" in ended.err
    assert evaluate("--limit", 2, "--resume", data=faces).code == 2
    assert evaluate("--limit", 2, "--split", "val").code == 0
    assert [row["id"] for row in _results(tmp_path)["records"]] == VAL[:2]
    assert evaluate("--limit", 2, "--resume").code == 2


def test_what_cannot_be_is_said_in_one_line(evaluate, faces):
    for options, data, reason in (
        (("--split", "val"), faces, "a split is of a data set by name"),
        (("--limit", 4), None, "lacks 1 of the first 4 images of celebahq's test split"),
        ((), f"faces:{faces}", "known are celebahq:PATH, ffhq:PATH, lsun-bedroom:PATH"),
        (("--split", "tset"), None, "did you mean test"),
    ):
        ended = evaluate(*options, data=data)
        assert ended.code == 2 and ended.err.count("\n") == 1 and reason in ended.err


def test_a_damaged_image_is_named_by_id_and_file(evaluate, faces):
    (faces / "celeba_hq_256" / f"{TEST[1]}.png").write_bytes(b"none")
    ended = evaluate("--limit", 3)
    assert ended.code == 1 and f"failed: {TEST[1]}: celeba_hq_256/{TEST[1]}.png: not an image" in ended.err


@pytest.mark.parametrize("name", ["ordering", "calibrate", "tune", "mine"])
def test_the_other_commands_take_it(flash, faces, tiny_model, tmp_path, name):
    options = {
        "ordering": ("--levels", 2),
        "calibrate": (),
        "mine": ("--levels", 2, "--keep-hardest", 1),
        "tune": ("--method", "flash(latent-dps)", "--steps", 2, "--grid", "guidance=1"),
    }[name]
    command = (name, "--data", f"celebahq:{faces}", "--limit", 2, "--model", tiny_model)
    out = tmp_path / ("mined" if name == "mine" else "results.json")
    ended = flash(*command, *options, "--split", "val", "--out", out)
    assert ended.code == 0, ended.err
    results = json.loads((out / "mine.json").read_text()) if name == "mine" else _results(tmp_path)
    assert results["split"] == "val" and results["data"] == [f"celebahq:{faces}"]
    if name != "tune":
        assert {row["id"] for row in results["records"]} == set(VAL[:2])
    else:
        for data, reason in ((f"celebahq:{faces}", "another split"), (faces, "another data")):
            ended = flash(name, "--data", data, *command[3:], *options, "--out", out, "--resume")
            assert ended.code == 2 and reason in ended.err


def test_training_takes_what_is_in_neither_list(flash, faces, tmp_path, monkeypatch):
    from flashdiffusion.training import run

    seen = []
    monkeypatch.setattr(run, "train_stage", lambda stage, images, *more: seen.append(images.ids))
    out = ("--config", "tiny", "--out", tmp_path / "run")
    ended = flash("train", "autoencoder", "--data", f"celebahq:{faces}", *out)
    assert ended.code == 0, ended.err
    assert seen == [["00000", "00001", "00002", "00003"]]
    assert set(seen[0]).isdisjoint(DATA["celebahq"].ids("test") + DATA["celebahq"].ids("val"))
