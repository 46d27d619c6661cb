"""`mine`: what it writes, what it lists, what it refuses."""

import csv
import json
import shutil

import pytest
from PIL import Image

from flashdiffusion.data import ImageDataset


@pytest.fixture
def mine(flash, tmp_path, image_folder, tiny_model):
    """`mine(*options)` runs the command on six images, with three levels."""

    def run(*options, data=image_folder, limit=("--limit", 6)):
        given = ("--data", data, "--model", tiny_model, "--levels", 3, *limit)
        return flash("mine", *given, "--out", tmp_path / "out", *options)

    return run


def _ranking(out):
    with (out / "ranking.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_it_ranks_and_writes_everything(mine, flash, tmp_path, image_folder, tiny_model):
    ended, out = mine("--keep-hardest", "50%"), tmp_path / "out"
    assert ended.code == 0, ended.err
    assert "gaussian-blur, 6 images, 3 levels; written to " in ended.out
    assert "\n  shares of the variance of log severity: level " in ended.out
    assert "Of 6 images: a trial, not a result." in ended.out
    names = ["effects.png", "hardest.txt", "mine.json", "ranking.csv", "sheet.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    rows = _ranking(out)
    assert [row["rank"] for row in rows] == [str(n) for n in range(1, 7)]
    effects = [float(row["image_effect"]) for row in rows]
    assert effects == sorted(effects, reverse=True) and len({row["id"] for row in rows}) == 6
    assert [*rows[0]][-3:] == ["severity_std_0", "severity_std_1.5", "severity_std_3"]
    found = json.loads((out / "mine.json").read_text())
    assert found["command"][:2] == ["flashdiffusion", "mine"] and found["environment"]["torch"]
    assert sum(found["shares"].values()) == pytest.approx(1, rel=1e-4) and len(found["records"]) == 6
    hardest = ImageDataset([out / "hardest.txt"], 32)
    assert hardest.ids == [row["id"] for row in rows[:3]]
    ended = flash("evaluate", "--data", out / "hardest.txt", "--model", tiny_model, "--method", "ae", *_out(tmp_path))
    assert ended.code == 0, ended.err
    # As `evaluate` measures it: the severity of the same measurement.
    record = json.loads((tmp_path / "e.json").read_text())["records"][0]
    assert record["severity"] == pytest.approx(float(rows[0]["total_severity"]), rel=1e-3)


def _out(tmp_path):
    return "--out", tmp_path / "e.json"


def test_pictures_have_their_parts(mine, tmp_path):
    assert mine().code == 0
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        # Two titles, two rows of tiles: eight of 128 pixels beside each other, two below each other.
        assert sheet.width == 8 * 136 + 8 and 4 * 128 < sheet.height < 4 * 128 + 200
        left = sheet.crop((8, 60, 136, 60 + 256)).convert("L").getextrema()
        right = sheet.crop((3 * 136 + 8, 60, sheet.width, 60 + 256)).convert("L").getextrema()
        assert left[1] - left[0] > 20 and right == (255, 255)  # three images, then none
    with Image.open(tmp_path / "out" / "effects.png") as plot:
        assert plot.width > plot.height > 300


@pytest.mark.parametrize(("rank", "column"), [("total", "total_severity"), ("true", "true_image_effect")])
def test_other_ranks_are_taken_from_what_was_measured(mine, tmp_path, rank, column):
    assert mine().code == 0
    before = json.loads((tmp_path / "out" / "mine.json").read_text())["records"]
    ended = mine("--resume", "--rank", rank, "--keep-hardest", 2)
    assert ended.code == 0 and "image/s" not in ended.err, ended.err
    values = [float(row[column]) for row in _ranking(tmp_path / "out")]
    assert values == sorted(values, reverse=True)
    assert len((tmp_path / "out" / "hardest.txt").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "out" / "mine.json").read_text())["records"] == before


def test_an_interrupted_run_is_continued(mine, tmp_path, image_folder, monkeypatch):
    from flashdiffusion.experiments import mining

    measure, measured = mining.measure_severities, []

    def interrupted(*given, **more):
        for number, one in enumerate(measure(*given, **more)):
            if number == 4 and not measured:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(mining, "measure_severities", interrupted)
    ended = mine()
    assert ended.code == 130 and "interrupted: 4 of 6 images are done; --resume continues" in ended.err

    def counted(pipeline, data, conditions, rows, **more):
        measured.extend(rows)
        return measure(pipeline, data, conditions, rows, **more)

    monkeypatch.setattr(mining, "measure_severities", counted)
    assert mine("--resume").code == 0 and measured == [4, 5]
    assert len(_ranking(tmp_path / "out")) == 6
    ended = mine("--resume", "--noise-std", "0.1")
    assert ended.code == 2 and "holds a run with another noise_std (0.05, now 0.1)" in ended.err


def test_an_unreadable_image_is_reported_and_the_others_go_on(mine, tmp_path, image_folder):
    data = tmp_path / "data"
    data.mkdir()
    for number in (0, 1, 2):
        shutil.copy(image_folder / f"image-{number:02d}.png", data)
    (data / "image-01.png").write_bytes(b"no image")
    ended, out = mine("--keep-hardest", "100%", data=data), tmp_path / "out"
    assert ended.code == 1 and "failed: " in ended.err and "image-01.png" in ended.err
    assert sorted(row["id"] for row in _ranking(out)) == ["image-00.png", "image-02.png"]
    assert sorted(ImageDataset([out / "hardest.txt"], 32).ids) == ["image-00.png", "image-02.png"]
    assert [one["id"] for one in json.loads((out / "mine.json").read_text())["failed"]] == ["image-01.png"]
    shutil.copy(image_folder / "image-01.png", data)  # put right
    shutil.copy(image_folder / "image-03.png", data / "image-00.png")  # another image by its name
    before = {one["id"]: one for one in json.loads((out / "mine.json").read_text())["records"]}
    assert mine("--resume", data=data).code == 0
    after = {one["id"]: one for one in json.loads((out / "mine.json").read_text())["records"]}
    assert [*after] == ["image-00.png", "image-01.png", "image-02.png"]
    assert after["image-02.png"] == before["image-02.png"] and after["image-00.png"] != before["image-00.png"]


def test_one_image_alone_and_a_name_that_is_long_and_odd(mine, tmp_path, image_folder):
    name = "ж" * 60 + " $x_1$.png"
    shutil.copy(image_folder / "image-00.png", tmp_path / name)
    ended = mine(data=tmp_path / name, limit=())
    assert ended.code == 0, ended.err
    (row,) = _ranking(tmp_path / "out")
    assert row["id"] == name and float(row["image_effect"]) == 1
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


def test_noise_in_place_of_levels(mine, tmp_path):
    ended = mine("--task", "denoising", "--over", "noise")
    assert ended.code == 0, ended.err
    assert {"severity_noise_std_0", "severity_noise_std_0.1", "severity_noise_std_0.2"} <= _ranking(tmp_path / "out")[
        0
    ].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep-hardest", "0%"), "keep-hardest is 0%; expected a count from 1 to 6"),
        (("--keep-hardest", "200%"), "keep-hardest is 200%; expected"),
        (("--keep-hardest", "7"), "keep-hardest is 7; expected a count from 1 to 6"),
        (("--keep-hardest", "most"), "keep-hardest is most; expected"),
        (("--rank", "totl"), "unknown rank 'totl'; did you mean total"),
        (("--task", "denoising"), "denoising has no level of its own; choose a task that has one, or --over noise"),
        (("--over", "noise", "--noise-std", "-1"), "noise std is -1; expected a noise standard deviation"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(mine, tmp_path, options, message):
    ended = mine(*options)
    assert ended.code == 2 and message in ended.err
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


def test_data_without_images_is_refused(mine, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = mine(data=tmp_path / "empty")
    assert ended.code == 2 and "no images found" in ended.err
