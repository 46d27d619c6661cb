"""fit_head.py and holes.py on the tiny model."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flashdiffusion.priors import load_component
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.severity.encoder import multiply_variance
from flashdiffusion.training.draws import Draws
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
    drawn = blur.problem(torch.zeros(256, 3, 20, 20), draws).physics.describe()
    assert 3.5 < max(one["std"] for one in drawn) <= 4 and min(one["std"] for one in drawn) < 0.5


def test_a_head_that_is_told_nothing_is_refused(run, tmp_path, model_of, image_folder):
    with pytest.raises(SystemExit, match="expected one that has"):
        run("fit_head.py", "--data", image_folder, "--model", model_of(None), "--out", tmp_path)


def test_holes_are_measured(run, tmp_path, tiny_model, image_folder):
    lpips_file = tmp_path / "lpips.safetensors"
    save_file(lpips_weights("squeeze"), lpips_file)
    out = tmp_path / "holes.json"
    methods = ["flash(proximal)", "ae"]
    run("holes.py", "--data", image_folder, "--lpips", lpips_file, "--model", tiny_model, "--images", 2,
        "--methods", *methods, "--out", out, "--grid", tmp_path / "holes.png")  # fmt: skip
    holes = json.loads(out.read_text())["holes"]
    assert set(holes) == {"scribble", "box"} and (tmp_path / "holes.png").exists()
    for figures in holes.values():
        first, second = (figures[method]["lpips_of_images"] for method in methods)
        difference = figures["paired"]["flash(proximal) - ae"]["difference"]
        assert difference == pytest.approx(sum(a - b for a, b in zip(first, second, strict=True)) / 2)
