"""Whole commands with the tiny model: what they write, and that an image's result is its own."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion import FlashPipeline
from flashdiffusion.data import MeasurementFile, load_image
from flashdiffusion.severity.picture import LEAST

STEPS = 5


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.fixture
def measured(flash, tmp_path, image_folder) -> Path:
    """Four degraded images of 32 x 32."""
    inputs = [image_folder / f"image-{i:02d}.png" for i in range(4)]
    ended = flash("degrade", *inputs, "--size", 32, "--seed", 3, "--out", tmp_path / "measured")
    assert ended.code == 0 and ended.err == ""
    return tmp_path / "measured"


def test_degrade_writes_measurements_and_images_to_look_at(measured):
    names = [f"image-{i:02d}" for i in range(4)]
    expected = {f"{n}{s}" for n in names for s in (".png", ".safetensors")} | {"degrade.json"}
    assert {p.name for p in measured.iterdir()} == expected
    records = json.loads((measured / "degrade.json").read_text())["records"]
    assert [record["id"] for record in records] == names
    for name in names:
        file = MeasurementFile.load(measured / f"{name}.safetensors")
        assert file.y.shape == (3, 32, 32) and file.physics == "gaussian-blur" and file.noise_std == 0.05
        assert 0 <= float(file.params["std"]) <= 3
        (record,) = (r for r in records if r["id"] == name)
        assert abs(record["degradation"]["std"] - float(file.params["std"])) < 1e-3
        looked_at = load_image(measured / f"{name}.png")
        assert float((file.y.clamp(0, 1) - looked_at).abs().max()) <= 0.5 / 255 + 1e-6


def test_a_degraded_image_depends_on_seed_and_name_alone(flash, tmp_path, image_folder, measured):
    name = "image-02"
    files = [measured / f"{name}.safetensors"]
    for seed in (3, 4):
        out = tmp_path / f"seed-{seed}"
        flash("degrade", image_folder / f"{name}.png", "--size", 32, "--seed", seed, "--out", out)
        files.append(out / f"{name}.safetensors")
    among_four, alone, other_seed = map(MeasurementFile.load, files)
    assert torch.equal(alone.y, among_four.y)
    assert torch.equal(alone.params["std"], among_four.params["std"])
    assert not torch.equal(alone.y, other_seed.y)


def test_degrade_adds_the_noise_it_says_to_the_blur_it_says(flash, tmp_path, image_folder):
    source = image_folder / "image-00.png"
    identity = ("--physics", "gaussian-blur:std=0", "--size", 0)
    flash("degrade", source, *identity, "--noise-std", 0, "--out", tmp_path / "clean")
    flash("degrade", source, *identity, "--noise-std", 0.1, "--out", tmp_path / "noisy")
    clean, noisy = (MeasurementFile.load(tmp_path / n / "image-00.safetensors").y for n in ("clean", "noisy"))
    assert clean.shape == (3, 40, 48)
    assert float((clean - load_image(source)).abs().max()) < 1e-6
    assert float((noisy - clean).std()) == pytest.approx(0.1, rel=0.05)  # 5760 values: 1 % is one deviation


def test_degrade_says_what_becomes_of_earlier_measurements(flash, image_folder, measured):
    inputs = [image_folder / f"image-{i:02d}.png" for i in (3, 4)]
    ended = flash("degrade", *inputs, "--size", 32, "--out", measured)
    assert ended.code == 0 and ended.err == (
        f"flashdiffusion: note: {measured} holds 4 measurements of an earlier run; replaced: 1; kept, and restored "
        "with the others: 3; degrade.json lists this run alone\n"
    )
    assert len(list(measured.glob("*.safetensors"))) == 5
    assert len(json.loads((measured / "degrade.json").read_text())["records"]) == 2


def test_severity_sorts_and_writes_csv(flash, tmp_path, tiny_model, measured):
    table = tmp_path / "new" / "severities.csv"
    rows = {}
    for options in ((), ("--sort",)):
        ended = flash("severity", measured, "--model", tiny_model, "--csv", table, "--json", *options)
        assert ended.code == 0, ended.err
        with table.open(newline="") as stream:
            rows[options] = list(csv.DictReader(stream))
        printed = json.loads(ended.out)["records"]
        assert [(row["id"], float(row["severity"])) for row in rows[options]] == [
            (record["id"], record["severity"]) for record in printed
        ]
    assert set(rows[()][0]) == {"id", "severity", "start_step", "file"} and rows[()][0]["file"].endswith(
        "image-00.safetensors"
    )
    severities = [float(row["severity"]) for row in rows[("--sort",)]]
    assert severities == sorted(severities, reverse=True) != [float(row["severity"]) for row in rows[()]]


def test_severity_sees_an_image_as_its_physics_shows_it(flash, tmp_path, image_folder, tiny_model):
    with Image.open(image_folder / "image-00.png") as image:
        image.resize((32, 32)).save(tmp_path / "a.png")
        image.resize((16, 16)).save(tmp_path / "small.png")
        kept = np.tile([255, 0], (32, 16)).astype(np.uint8)
        Image.fromarray(kept).save(tmp_path / "mask.png")

    def severity(*arguments):
        ended = flash("severity", *arguments, "--model", tiny_model, "--json")
        assert ended.code == 0, ended.err
        return [record["severity"] for record in json.loads(ended.out)["records"]]

    mask = ("--physics", f"random-inpainting:mask={tmp_path / 'mask.png'}")
    black = np.asarray(Image.open(tmp_path / "a.png")) * (kept > 0)[..., None]
    Image.fromarray(black.astype(np.uint8)).save(tmp_path / "black.png")
    assert (
        severity(tmp_path / "a.png", *mask) == severity(tmp_path / "black.png", *mask) != severity(tmp_path / "a.png")
    )
    (value,) = severity(tmp_path / "small.png", "--physics", "super-resolution:factor=2")
    assert [value] != severity(tmp_path / "small.png")
    assert severity(tmp_path / "a.png", "--fit", "--physics", "super-resolution:factor=2"), "fitted to 16x16"


def test_the_same_maps_are_written_by_severity_and_restore(flash, tmp_path, tiny_model, measured):
    ended = flash("severity", measured, "--model", tiny_model, "--maps", tmp_path / "seen", "--json")
    assert ended.code == 0, ended.err
    told = {record["id"]: record for record in json.loads(ended.out)["records"]}
    options = ("--model", tiny_model, "--maps", tmp_path / "started")
    ended = flash("restore", measured, "--out", tmp_path / "out", *options)
    assert ended.code == 0, ended.err
    assert len([*(tmp_path / "seen").iterdir()]) == 4
    for record in json.loads((tmp_path / "out" / "results.json").read_text())["records"]:
        assert record["start_step"] == told[record["id"]]["start_step"]
        assert record["severity"] == pytest.approx(told[record["id"]]["severity"], rel=1e-2)
    for file in (tmp_path / "seen").iterdir():
        seen, started = _pixels(file), _pixels(tmp_path / "started" / file.name)
        for folder in ("seen", "started"):
            with Image.open(tmp_path / folder / file.name) as picture:
                assert f"from {LEAST} or less (dark blue) to 1 or more (yellow)" in picture.text["Description"]
        assert seen.shape == _pixels(tmp_path / "out" / file.name).shape == (32, 32, 3)
        assert np.abs(seen - started).max() <= 4  # a shade: restoring joins images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "latent-dps", "--maps", "maps"), "method latent-dps estimates no severity, so it has no maps"),
        (("--method", "swinir", "--maps", "maps"), "method swinir estimates no severity"),
        (("--maps", "out"), "maps is out, a folder of images; choose another --maps"),
    ],
)
def test_maps_that_cannot_be_are_refused(flash, tmp_path, monkeypatch, tiny_model, measured, options, message):
    monkeypatch.chdir(tmp_path)
    ended = flash("restore", measured, "--out", "out", "--model", tiny_model, *options)
    assert ended.code == 2 and message in ended.err
    assert not [*tmp_path.glob("out/*.png")]


def test_degrade_severity_restore(flash, tmp_path, image_folder, tiny_model, measured):
    ended = flash("severity", measured, "--model", tiny_model, "--json")
    assert ended.code == 0
    assert all("have a severity far above 1" in line for line in ended.err.splitlines())  # of networks of three steps
    severities = {r["id"]: r["severity"] for r in json.loads(ended.out)["records"]}
    assert list(severities) == [f"image-{i:02d}" for i in range(4)]
    assert all(v > 0 for v in severities.values())

    out = tmp_path / "restored"
    # The reference images are cropped and resized as the measurements were.
    options = ("--reference", image_folder, "--steps", 40, "--model", tiny_model, "--json")
    ended = flash("restore", measured, "--out", out, *options)
    assert ended.code == 0
    assert sorted(p.name for p in out.iterdir()) == [*(f"image-{i:02d}.png" for i in range(4)), "results.json"]
    results = json.loads((out / "results.json").read_text())
    assert results["command"][:2] == ["flashdiffusion", "restore"] and results["method"] == "flash(proximal)"
    levels = FlashPipeline.from_pretrained(tiny_model).prior.schedule.geometric(40).times.tolist()
    assert {name: results[name] for name in ("model", "records", "mean")} == json.loads(ended.out)
    for record in results["records"]:
        known = {"severity", "start_step", "nfe", "gflop", "seconds", "measurement_psnr", "psnr", "ssim", "consistency"}
        assert set(record) == {"id", "degradation", "file", "digest"} | known
        std = float(MeasurementFile.load(measured / f"{record['id']}.safetensors").params["std"])
        assert record["degradation"]["std"] == pytest.approx(std, abs=1e-3)
        assert record["severity"] == pytest.approx(severities[record["id"]], rel=1e-3)
        assert 1 <= record["nfe"] <= 40 and record["start_step"] == levels[record["nfe"]]
        restored = load_image(out / f"{record['id']}.png")
        truth = load_image(image_folder / f"{record['id']}.png", 32)
        error = float((restored - truth).square().mean())
        assert record["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.1)
    mean = np.mean([record["psnr"] for record in results["records"]])
    assert results["mean"]["images"] == 4 and results["mean"]["psnr"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("method", ["flash(latent-dps)", "latent-dps", "ae"])
def test_an_image_is_restored_the_same_alone_and_in_any_company(flash, tmp_path, tiny_model, measured, method):
    files = sorted(measured.glob("*.safetensors"))
    orders = {"all": files, "backwards": files[::-1], "alone": files[2:3]}
    for name, inputs in orders.items():
        max_in_flight = 3 if name == "backwards" else 16
        steps = () if method == "ae" else ("--steps", STEPS)
        options = ("--method", method, *steps, "--model", tiny_model, "--max-in-flight", max_in_flight)
        assert flash("restore", *inputs, "--out", tmp_path / name, *options).code == 0
    together = _pixels(tmp_path / "all" / "image-02.png")
    assert together.std() > 1
    # Batched convolutions may round differently: one level of 255 at most.
    assert np.abs(together - _pixels(tmp_path / "alone" / "image-02.png")).max() <= 1
    for file in files:
        pair = (_pixels(tmp_path / name / f"{file.stem}.png") for name in ("all", "backwards"))
        assert np.abs(next(pair) - next(pair)).max() <= 1


def test_the_seed_decides_what_is_sampled(flash, tmp_path, tiny_model, measured):
    file = measured / "image-01.safetensors"
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = ("--method", "latent-dps", "--steps", STEPS, "--seed", seed, "--model", tiny_model)
        flash("restore", file, "--out", tmp_path / name, *options)
    a, b, c = (_pixels(tmp_path / name / "image-01.png") for name in "abc")
    assert np.array_equal(a, b)
    assert np.abs(a - c).max() > 1


def test_images_are_restored_at_their_own_size_unless_fitted(flash, tmp_path, image_folder, tiny_model):
    source = image_folder / "image-05.png"
    options = ("--physics", "gaussian-blur:std=1", "--steps", 2, "--model", tiny_model, "--reference", image_folder)
    assert flash("restore", source, "--out", tmp_path / "own", *options).code == 0
    assert flash("restore", source, "--out", tmp_path / "fitted", "--fit", *options).code == 0
    assert _pixels(tmp_path / "own" / "image-05.png").shape == (40, 48, 3)
    assert _pixels(tmp_path / "fitted" / "image-05.png").shape == (32, 32, 3)
    (record,) = json.loads((tmp_path / "own" / "results.json").read_text())["records"]
    error = np.square((_pixels(tmp_path / "own" / "image-05.png") - _pixels(source)) / 255).mean()
    assert record["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.1)


def test_inputs_of_different_kinds_are_restored_in_one_command(flash, tmp_path, image_folder, tiny_model, measured):
    Image.fromarray(np.tile([255, 0], (40, 24)).astype(np.uint8)).save(tmp_path / "mask.png")
    plain = shutil.copy(image_folder / "image-09.png", tmp_path / "plain.png")
    options = ("--physics", f"random-inpainting:mask={tmp_path / 'mask.png'}", "--steps", 2, "--model", tiny_model)
    ended = flash("restore", measured, plain, "--out", tmp_path / "out", *options)
    assert ended.code == 0
    masked, line = ended.err.splitlines()  # measurement files are not told by the user
    assert "1 of 5 images" in masked and "plain" in masked
    assert "1 of 5 images are farther from their measurements than the noise explains" in line and "plain" in line
    records = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    assert {r["id"] for r in records} == {*(f"image-{i:02d}" for i in range(4)), "plain"}


def test_equal_names_from_two_folders_do_not_overwrite_each_other(flash, tmp_path, tiny_model, measured):
    shutil.copytree(measured, tmp_path / "again")
    files = [tmp_path / folder / "image-00.safetensors" for folder in ("measured", "again")]
    assert flash("restore", *files, "--steps", 2, "--model", tiny_model, "--out", tmp_path / "out").code == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["image-00-2.png", "image-00.png", "results.json"]


def test_brackets_in_a_name_are_printed_as_they_are(flash, tmp_path, tiny_model, measured):
    (measured / "image-00.safetensors").rename(tmp_path / "shot[1][bold].safetensors")
    ended = flash("severity", tmp_path / "shot[1][bold].safetensors", "--model", tiny_model)
    assert ended.code == 0 and "shot[1][bold]" in ended.out


def test_a_reference_that_cannot_be_read_is_said_and_the_others_compared(
    flash, tmp_path, image_folder, tiny_model, measured
):
    truth = shutil.copytree(image_folder, tmp_path / "truth")
    (truth / "image-02.png").write_text("words")
    options = ("--reference", truth, "--steps", 2, "--model", tiny_model)
    ended = flash("restore", measured, "--out", tmp_path / "out", *options)
    assert ended.code == 1
    assert ended.err.startswith("flashdiffusion: failed: ") and f"{truth / 'image-02.png'}: not an image" in ended.err
    records = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    assert len(records) == 4
    assert {r["id"] for r in records if "psnr" in r} == {"image-00", "image-01", "image-03"}


def test_images_far_from_the_model_s_size_are_noted_together(flash, tmp_path, image_folder, tiny_model):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    with Image.open(image_folder / "image-00.png") as source:
        for name, size in {"a": (48, 48), "b": (56, 64), "c": (64, 56), "d": (16, 48)}.items():
            source.resize(size).save(inputs / f"{name}.png")
    options = ("--physics", "gaussian-blur:std=1", "--method", "ae", "--model", tiny_model, "--out", tmp_path / "out")
    ended = flash("restore", inputs, *options)
    assert ended.code == 0
    assert ended.err == (
        "flashdiffusion: note: 3 of 4 images are of sizes far from the 32 x 32 pixels that the model was trained on; "
        f"--fit restores them at that; first: {inputs / 'b.png'}, 64 x 56 pixels (height x width)\n"
    )
    options = (*options[:-1], tmp_path / "alone")
    alone = flash("restore", inputs / "d.png", *options).err
    assert "1 of 1 images" in alone and "d.png, 48 x 16 pixels (height x width)" in alone
    for quiet in ((inputs / "a.png",), (inputs, "--fit")):
        assert flash("restore", *quiet, *options[:-1], tmp_path / f"quiet-{len(quiet)}").err == ""


@pytest.mark.parametrize(
    ("method", "options"),
    [("flash(latent-dps)", ("--steps", 20)), ("latent-dps", ("--steps", 4)), ("ae", ()), ("bound", ())],
)
def test_evaluate_writes_one_record_per_image_and_their_means(
    flash, tmp_path, image_folder, tiny_model, method, options
):
    out = tmp_path / "new" / "results.json"
    limits = ("--limit", 5, "--batch-size", 3)
    data = ("--data", image_folder, "--model", tiny_model)
    ended = flash("evaluate", *data, *limits, "--method", method, *options, "--out", out)
    assert ended.code == 0 and f"written to {out}" in ended.out
    results = json.loads(out.read_text())
    records = results["records"]
    assert results["method"] == method and results["task"] == "gaussian-blur"
    assert [r["id"] for r in records] == [f"image-{i:02d}.png" for i in range(5)]
    for key in ("psnr", "ssim", "measurement_psnr"):
        assert results["mean"][key] == pytest.approx(np.mean([r[key] for r in records]), rel=1e-4)
    assert results["mean"]["images"] == 5
    quality = r"\nseverity: spearman [-\d.]+, median ratio [\d.]+, spread [\d.]+\n$"
    assert bool(re.search(quality, ended.out)) == (method in {"flash(latent-dps)", "ae"}), ended.out
    if method == "bound":
        assert not any("nfe" in r for r in records)
    else:
        stride = {"flash(latent-dps)": 50, "latent-dps": 250, "ae": 0}[method]
        assert [r["nfe"] * stride for r in records] == [r["start_step"] for r in records]
        assert {"ae": {0}, "latent-dps": {4}}.get(method) in (None, {r["nfe"] for r in records})


def test_every_method_is_given_the_same_measurements(flash, tmp_path, image_folder, tiny_model):
    seen = []
    for method in ("ae", "bound"):
        out = tmp_path / f"{method}.json"
        flash("evaluate", "--data", image_folder, "--model", tiny_model, "--method", method, "--out", out)
        seen.append([r["measurement_psnr"] for r in json.loads(out.read_text())["records"]])
    assert seen[0] == seen[1] and len(set(seen[0])) == 12


def test_ordering_writes_the_severity_of_every_level(flash, tmp_path, image_folder, tiny_model):
    out = tmp_path / "ordering.json"
    data = ("--data", image_folder, "--model", tiny_model, "--limit", 3)
    ended = flash("ordering", *data, "--levels", 4, "--out", out)
    assert ended.code == 0 and "over 3 images and 4 levels" in ended.out
    results = json.loads(out.read_text())
    assert [level["std"] for level in results["levels"]] == [0, 1, 2, 3]
    severities = np.array([r["severities"] for r in results["records"]])
    assert severities.shape == (3, 4)
    np.testing.assert_allclose([level["mean_severity"] for level in results["levels"]], severities.mean(0), rtol=1e-5)
    pairs = [s[j] > s[i] for s in severities for i in range(4) for j in range(i + 1, 4)]
    assert results["ordering_accuracy"] == pytest.approx(np.mean(pairs), abs=1e-4)


def test_ordering_of_a_task_with_levels_of_its_own_says_so(flash, tmp_path, image_folder, tiny_model):
    data = ("--data", image_folder, "--model", tiny_model, "--limit", 1, "--task", "super-resolution")
    ended = flash("ordering", *data, "--levels", 5, "--out", tmp_path / "asked.json")
    assert ended.code == 0 and "over 1 image and 3 levels" in ended.out
    assert "note: task super-resolution is measured at its own levels 2, 4, 8, not 5" in ended.err
    results = json.loads((tmp_path / "asked.json").read_text())
    assert [level["factor"] for level in results["levels"]] == [2, 4, 8]
    ended = flash("ordering", *data, "--out", tmp_path / "default.json")
    assert ended.code == 0 and "note" not in ended.err


def test_demo_writes_an_overview_and_a_table(flash, tmp_path, tiny_model):
    out = tmp_path / "demo"
    ended = flash("demo", "--model", tiny_model, "--out", out)
    assert ended.code == 0
    names = ["blur-0.5", "blur-1.5", "blur-3"]
    assert all(name in ended.out for name in names) and str(out / "overview.png") in ended.out
    images = [f"{name}-{kind}.png" for name in (*names, "photograph") for kind in ("measured", "restored")]
    sheets = ["clean.png", "overview.png", "photograph.png"]
    results = ["results.json", "photograph.json"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*images, *sheets, *results])
    assert all(_pixels(out / sheet).std() > 1 for sheet in sheets)
    portrait, other = (json.loads((out / name).read_text()) for name in results)
    assert (portrait["model"], other["model"]) == (str(tiny_model), "embedded:photos")
    records, [photograph] = portrait["records"], other["records"]
    assert [r["id"] for r in records] == names
    before = [r["measurement_psnr"] for r in records]
    assert before == sorted(before, reverse=True)  # the wider the blur, the worse the measurement
    assert photograph["psnr"] > photograph["measurement_psnr"] + 1
    steps = [nfe for row in photograph["tiles"]["nfe"] for nfe in row]
    assert max(steps) > min(steps) > 0


def test_train_makes_a_model_that_restores(flash, tmp_path, image_folder, measured):
    model = tmp_path / "model"
    options = ("--config", "tiny", "--max-minutes", 60, "--max-steps", 2, "--limit", 8)
    assert flash("train", "all", "--data", image_folder, "--out", model, *options).code == 0
    ended = flash("restore", measured, "--steps", 2, "--model", model, "--out", tmp_path / "restored")
    assert ended.code == 0 and ended.err == ""


def test_images_of_a_mixture_take_the_settings_of_their_own_degradation(flash, tmp_path, image_folder, tiny_model):
    from flashdiffusion import FlashPipeline
    from flashdiffusion.data import ImageDataset
    from flashdiffusion.metrics import psnr
    from flashdiffusion.physics import get_task
    from flashdiffusion.physics.tasks import measure
    from flashdiffusion.presets import Preset, Presets

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    kinds = ("gaussian-blur", "nonlinear-blur", "random-inpainting")
    Presets({(k, "flash(latent-dps)", None): Preset({"eta": 0.5 + n}) for n, k in enumerate(kinds)}).write(model)
    common = ("--data", image_folder, "--limit", 6, "--model", model, "--steps", 12, "--out", tmp_path / "e.json")
    assert flash("evaluate", *common, "--task", "mixture").code == 0
    found = {row["id"]: row["psnr"] for row in json.loads((tmp_path / "e.json").read_text())["records"]}
    data = ImageDataset([image_folder], 32, 6)
    clean = data.batch(range(6))
    measured = measure(clean, data.ids, get_task("mixture"), 0.05, 0)
    assert len({one["physics"] for one in measured.physics.describe()}) > 1
    restored = FlashPipeline.from_pretrained(model)(measured.y, measured.physics, ids=data.ids, steps=12)
    assert list(found.values()) == pytest.approx(psnr(restored.images, clean).tolist(), abs=1e-2)
