"""A result is compared with the true image of its own file, or the run is refused; grey stays grey."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from flashdiffusion.cli.references import references
from flashdiffusion.errors import InputError

PHYSICS = ("--physics", "gaussian-blur:std=1", "--method", "ae")


def _images(folder: Path, *names: str, size: int = 32, mode: str = "RGB") -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((size, size), 20 + 40 * i).convert(mode).save(folder / name)
    return folder


def _compared(out: Path) -> dict[str, float]:
    return {Path(row["file"]).name: row["psnr"] for row in json.loads((out / "results.json").read_text())["records"]}


def test_a_measurement_is_compared_with_the_file_it_was_made_from(flash, tmp_path, tiny_model):
    source, m, r = _images(tmp_path / "in", "a.bmp", "a.png", "sub/a.png"), tmp_path / "m", tmp_path / "r"
    assert flash("degrade", source, *PHYSICS[:2], "--size", 16, "--out", m).code == 0
    ended = flash("restore", m, "--method", "ae", "--reference", source, "--model", tiny_model, "--out", r)
    assert ended.code == 0, ended.err
    for name, file in {"a": "a.bmp", "a-2": "a.png", "a-3": "sub/a.png"}.items():
        alone = tmp_path / f"alone-{name}"
        _one = tmp_path / f"truth-{name}"
        _one.mkdir()
        shutil.copy(source / file, _one / Path(file).name)
        options = ("--method", "ae", "--reference", _one, "--model", tiny_model, "--out", alone)
        assert flash("restore", m / f"{name}.safetensors", *options).code == 0
        [value] = _compared(alone).values()
        assert value == pytest.approx(_compared(r)[f"{name}.safetensors"], rel=1e-4)


@pytest.mark.parametrize(
    ("inputs", "truths", "expected"),
    [
        (["a.jpg", "a.png"], ["a.png", "a-2.png"], None),  # nothing is known of a.jpg
        (["a.jpg", "a.png"], ["a.png", "a.jpg"], {"a.jpg": "a.jpg", "a.png": "a.png"}),
        (["a.jpg"], ["a.png"], {"a.jpg": "a.png"}),
        (["x/a.png", "y/a.png"], ["x/a.png", "y/a.png"], {"x/a.png": "x/a.png", "y/a.png": "y/a.png"}),
        (["x/a.png", "y/a.png"], ["a.png"], None),
        (["a.jpg"], ["a.png", "a.bmp"], None),
        (["a.jpg"], ["b.png"], None),
    ],
)
def test_matching_by_path_or_refused(tmp_path, inputs, truths, expected):
    folder, truth = _images(tmp_path / "in", *inputs), _images(tmp_path / "ref", *truths)
    files = {name: folder / name for name in inputs}
    if expected is None:
        with pytest.raises(InputError, match="compare"):
            references(truth, [folder], files)
    else:
        assert references(truth, [folder], files) == {name: truth / path for name, path in expected.items()}


def test_the_true_image_of_one_input_may_be_given_itself(flash, tmp_path, tiny_model):
    source, truth = _images(tmp_path / "in", "a.png"), _images(tmp_path / "truth", "other.png") / "other.png"
    options = (*PHYSICS, "--reference", truth, "--model", tiny_model)
    assert flash("restore", source / "a.png", *options, "--out", tmp_path / "o").code == 0
    assert 5 < _compared(tmp_path / "o")["a.png"] < 60
    _images(source, "b.png", "c.png")
    ended = flash("restore", source, *options, "--out", tmp_path / "all")
    assert ended.code == 2 and "other.png is one image for 3 inputs; expected the folder of theirs" in ended.err
    shutil.copy(source / "a.png", truth.with_name("a.png"))
    _images(tmp_path / "in2", "a.png")
    overwriting = ("--reference", truth.with_name("a.png"), "--model", tiny_model, "--out", truth.parent)
    ended = flash("restore", tmp_path / "in2" / "a.png", *PHYSICS, *overwriting)
    assert ended.code == 2 and "a.png is an input and would be overwritten" in ended.err


def test_a_true_image_of_another_size_is_refused_but_with_fit(flash, tmp_path, tiny_model):
    source, truth = _images(tmp_path / "in", "a.png", size=32), _images(tmp_path / "truth", "a.png", size=48)
    options = (source, *PHYSICS, "--reference", truth, "--model", tiny_model)
    ended = flash("restore", *options, "--out", tmp_path / "o")
    assert ended.code == 2
    expected = "a.png has 48 x 48 pixels and the result 32 x 32 pixels; expected the true image of the result's size"
    assert f"{expected} (--fit crops and resizes both)\n" in ended.err
    assert flash("restore", *options, "--fit", "--out", tmp_path / "fitted").code == 0
    assert flash("degrade", source, *PHYSICS[:2], "--out", tmp_path / "m").code == 0
    ended = flash("restore", tmp_path / "m", *options[3:], "--out", tmp_path / "o")
    assert ended.code == 2 and f"{expected}\n" in ended.err, "--fit is for images"


def test_a_true_image_of_another_size_is_refused_before_its_image_is_restored(flash, tmp_path, tiny_model):
    source, truth = _images(tmp_path / "in", "a.png", "b.jpg"), _images(tmp_path / "truth", "a.png", size=48)
    turned, exif = Image.open(source / "b.jpg").resize((32, 24)), Image.Exif()
    turned.save(source / "b.jpg")
    exif[0x0112] = 6  # stored as 24 x 32, and turned
    turned.transpose(Image.Transpose.ROTATE_90).save(truth / "b.jpg", exif=exif)
    options = (*PHYSICS, "--reference", truth, "--model", tiny_model, "--out", tmp_path / "o")
    ended = flash("restore", source, *options)
    assert ended.code == 1 and f"{truth / 'a.png'} has 48 x 48 pixels and the result 32 x 32 pixels" in ended.err
    assert [*_compared(tmp_path / "o")] == ["b.jpg"] and not (tmp_path / "o" / "a.png").exists()


def test_measurement_files_know_their_noise(flash, tmp_path, tiny_model):
    source = _images(tmp_path / "in", "a.png")
    assert flash("degrade", source, *PHYSICS[:2], "--size", 32, "--out", tmp_path / "m").code == 0
    given = ("restore", tmp_path / "m", "--method", "ae", "--model", tiny_model, "--out", tmp_path / "o")
    assert "measurement files know" not in flash(*given).err
    ended = flash(*given, "--noise-std", 0.1)
    assert "--noise-std not used: measurement files hold their own physics and noise" in ended.err


@pytest.mark.parametrize(("mode", "expected"), [("L", "L"), ("1", "L"), ("LA", "LA"), ("I;16", "I;16"), ("RGB", "RGB")])
def test_grey_in_grey_out(flash, tmp_path, tiny_model, mode, expected):
    source = _images(tmp_path, "a.png", mode="L" if mode == "I;16" else mode) / "a.png"
    if mode == "I;16":
        Image.new(mode, (32, 32), 9999).save(source)
    assert flash("degrade", source, *PHYSICS[:2], "--out", tmp_path / "m", "--size", 32).code == 0
    truth = ("--reference", tmp_path)
    for given in (source, tmp_path / "m" / "a.safetensors"):
        physics = PHYSICS if given == source else PHYSICS[2:]
        ended = flash("restore", given, *physics, "--model", tiny_model, "--out", tmp_path / "o", *truth)
        assert ended.code == 0, ended.err
        with Image.open(tmp_path / "o" / "a.png") as image:
            assert image.mode == expected
