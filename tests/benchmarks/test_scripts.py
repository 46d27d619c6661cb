"""The scripts and plugins of benchmarks/ on tiny models."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flashdiffusion.physics import TASKS
from flashdiffusion.plugins import LOADED
from flashdiffusion.priors import load_component
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.severity.loading import multiply_variance
from flashdiffusion.solvers.registry import STARTS
from flashdiffusion.training.draws import Draws
from images import smooth_image
from lpips_weights import lpips_weights

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def call(name, *arguments):
        monkeypatch.setattr("sys.argv", [str(BENCHMARKS / name), *map(str, arguments)])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")

    return call


@pytest.fixture
def model_of(tmp_path, tiny_pipeline):
    """Makes the tiny model with an encoder of these conditions, calibrated once."""

    def make(conditions):
        model = tmp_path / "model"
        tiny_pipeline.save_pretrained(model)
        encoder = SeverityEncoder.from_autoencoder(tiny_pipeline.prior.autoencoder, conditions=conditions)
        encoder.save_pretrained(model / "severity_encoder")
        multiply_variance(model / "severity_encoder", 2.0)
        return model

    return make


def test_the_head_is_fitted_and_nothing_else(run, tmp_path, model_of, image_folder):
    model = model_of(["gaussian-blur", "denoising"])
    out, options = tmp_path / "out", ["--images", 32, "--task", "gaussian-blur", "--noise-std", 0.1]
    run("fit_head.py", "--data", image_folder, "--model", model, "--out", out, *options)
    before, after = (load_component(SeverityEncoder, p) for p in (model / "severity_encoder", out))
    assert after.config.variance_scale == 1  # errors were taken as they are
    old, new = before.state_dict(), after.state_dict()
    changed = {key.partition(".")[0] for key in old if not torch.equal(old[key].half(), new[key].half())}
    assert changed == {"log_var", "modulation"}
    assert json.loads((out / "fit.json").read_text())["command"][0] == "fit_head.py"


def test_the_fit_goes_beyond_the_levels_that_are_used(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    make = runpy.run_path(str(BENCHMARKS / "fit_head.py"))["degradation_of"]
    blur, mixture = make("gaussian-blur", 0.3, 4 / 3), make("mixture", 0.3, 4 / 3)
    assert blur.task.high == pytest.approx(4) and blur.noise_std == mixture.noise_std == pytest.approx((0, 0.4))
    assert blur.task.name == "gaussian-blur" and mixture.task.name == "mixture"
    draws = Draws(0, 0, 256, slice(0, 256), "cpu")
    drawn = blur.physics((20, 20), draws).describe()
    assert 3.5 < max(one["std"] for one in drawn) <= 4 and min(one["std"] for one in drawn) < 0.5


def test_a_head_that_is_told_nothing_is_refused(run, tmp_path, model_of, image_folder):
    with pytest.raises(SystemExit, match="expected one that has"):
        run("fit_head.py", "--data", image_folder, "--model", model_of(None), "--out", tmp_path)


@pytest.fixture
def _plugins_forgotten():
    known = [(table, dict(table)) for table in (TASKS, STARTS)]
    yield
    LOADED.clear()
    for table, before in known:
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("_plugins_forgotten")
def test_holes_are_measured(run, flash, tmp_path, tiny_model, image_folder):
    lpips_file, folder = tmp_path / "lpips.safetensors", tmp_path / "run"
    save_file(lpips_weights("squeeze"), lpips_file)
    plugin = ("--plugin", BENCHMARKS / "holes.py", "evaluate", "--task", "holes", "--save-images")
    methods = ("--method", "ae", "--method", "flash(proximal)", "--lpips", lpips_file)
    ended = flash(
        *plugin, *methods, "--data", image_folder, "--limit", 4, "--seed", 2, "--model", tiny_model, "--out", folder
    )
    assert ended.code == 0, ended.err
    run("holes.py", folder, "--lpips", lpips_file, "--out", tmp_path / "holes.json", "--grid", tmp_path / "holes.png")
    result = json.loads((tmp_path / "holes.json").read_text())
    found = {kind: result[kind]["methods"]["ae"]["lpips_of_images"] for kind in ("scribble", "box", "both")}
    assert found["scribble"] and found["box"] and found["scribble"] | found["box"] == found["both"]
    whole = {row["id"]: row["lpips"] for row in json.loads((folder / "holes--ae.json").read_text())["records"]}
    assert found["both"].keys() == whole.keys() and all(0 < found["both"][id] < whole[id] for id in whole)
    [pair] = result["both"]["compared"]
    assert (pair["method"], pair["other"], pair["images"]) == ("flash(proximal)", "ae", 4)
    own = result["both"]["methods"]["flash(proximal)"]["lpips_of_images"]
    assert pair["difference"] == pytest.approx(sum(own[id] - found["both"][id] for id in own) / 4)
    with Image.open(tmp_path / "holes.png") as sheet:
        assert sheet.size == (4 * 32, 4 * 32)


@pytest.fixture
def photograph(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    smooth_image(np.random.default_rng(1), 88, 72).save(folder / "a.png")
    return folder


@pytest.mark.usefixtures("_plugins_forgotten")
def test_baselines_without_a_network_restore(flash, tmp_path, tiny_photos, photograph):
    plugin = ("--plugin", BENCHMARKS / "photographs.py", "evaluate", "--data", photograph, "--model", tiny_photos)
    tasks = {"blur-1.6": ("wiener", "richardson-lucy", "tv"), "lost-75": ("biharmonic",)}
    for task, methods in tasks.items():
        named = [part for method in methods for part in ("--method", method)]
        ended = flash(*plugin, "--task", task, *named, "--noise-std", 0.005, "--out", tmp_path / task)
        assert ended.code == 0, ended.err
        for method in methods:
            [record] = json.loads((tmp_path / task / f"{task}--{method}.json").read_text())["records"]
            assert record["psnr"] > record["measurement_psnr"] + 0.5 and record["nfe"] == 0, method
    ended = flash(*plugin, "--task", "lost-75", "--method", "wiener", "--out", tmp_path / "refused")
    assert "this baseline is for gaussian-blur" in ended.err


@pytest.mark.usefixtures("_plugins_forgotten")
def test_tiles_are_measured_against_the_whole(run, tmp_path, tiny_photos, photograph):
    lpips_file, out = tmp_path / "lpips.safetensors", tmp_path / "tiles.json"
    save_file(lpips_weights("squeeze"), lpips_file)
    options = ("--task", "denoising", "--tile", 48, "--lpips", lpips_file, "--grids", tmp_path / "grids")
    run("tiles.py", "--data", photograph, "--model", tiny_photos, *options, "--out", out)
    result = json.loads(out.read_text())
    [record] = result["records"]
    assert len(record["tiles"]["rows"]) == len(record["tiles"]["columns"]) == 2
    assert record["one start"]["gflop"] >= record["tiled"]["gflop"] > 0 and record["seam"] > 0
    assert result["means, low, high"]["seam"][0] == pytest.approx(record["seam"])
    assert (tmp_path / "grids" / "a.png").is_file()
