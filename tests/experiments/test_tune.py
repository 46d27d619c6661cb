"""The grid search: every combination once, resumable, the best by what was measured."""

import json
import re

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.experiments.tune import Trial, best, combinations, means, search
from flashdiffusion.jobs.measuring import Evaluated
from flashdiffusion.jobs.records import Record
from flashdiffusion.methods import Settings, methods, parse_method, parse_settings, settings_of, tuning_grid


def _measure(calls):
    def measure(settings):
        calls.append((settings.eta, settings.correction))
        return {"lpips": abs(settings.eta - 2) + settings.correction, "psnr": -abs(settings.eta - 4)}

    return measure


def test_every_combination_is_tried_once_and_the_best_is_found():
    calls = []
    grid = parse_settings("eta=1,2,4 correction=0,0.5")
    trials = list(search(combinations(grid, Settings(steps=7)), _measure(calls)))
    assert sorted(calls) == [(e, c) for e in (1, 2, 4) for c in (0, 0.5)]
    assert best(trials, "lpips").settings == Settings(eta=2, correction=0, steps=7)
    assert best(trials, "psnr").settings.eta == 4


def test_what_is_done_is_not_measured_again():
    grid = parse_settings("eta=1,2,4 correction=0")
    first = list(search(combinations(parse_settings("eta=1,2 correction=0"), Settings()), _measure([])))
    calls = []
    trials = list(search(combinations(grid, Settings()), _measure(calls), first))
    assert calls == [(4.0, 0.0)] and trials[:2] == first


def test_a_trial_that_diverged_is_never_the_best():
    trials = [Trial(Settings(eta=1), {"lpips": None}), Trial(Settings(eta=2), {"lpips": 0.9})]
    assert best(trials, "lpips").settings.eta == 2
    with pytest.raises(InputError, match="no trial has a finite lpips"):
        best(trials[:1], "lpips")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("guidence=1", "did you mean guidance"), ("eta=1,x", "expected numbers"), ("eta", "expected numbers")],
)
def test_a_grid_that_is_none_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_settings(text)


def test_every_method_has_a_default_grid_of_its_own_settings():
    for method in methods():
        assert tuning_grid(*parse_method(method)).keys() <= settings_of(*parse_method(method)).keys()
    assert tuning_grid("flash", "psld").keys() == {"guidance", "omega", "correction"}
    assert tuning_grid("ccdf", "dps").keys() == {"guidance", "start_step"}


def test_the_command_resumes_and_refuses_another_search(tmp_path, monkeypatch, capsys, image_folder, tiny_model):
    import sys

    from flashdiffusion.cli import main

    out = tmp_path / "tune.json"

    def run(*options):
        arguments = ["tune", "--data", image_folder, "--limit", 2, "--model", tiny_model, "--steps", 4, "--out", out]
        arguments += ["--method", "flash(latent-dps)"]
        monkeypatch.setattr(sys, "argv", ["flashdiffusion", *map(str, arguments), *options])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return end.value.code, printed.err if end.value.code else printed.out

    code, out_text = run("--grid", "eta=0.5 mixing=paper")
    assert code == 0
    # The options that reach this again, none of them of another method.
    start = r"--set decoder_error=0\.028 --set correction=[\d.]+ --set mixing=paper --set refine=false"
    options = rf"--set guidance=0\.5 {start} --set steps=4 --set delta=1"
    last = out_text.splitlines()[-1]
    figures = r"psnr [\d.]+, ssim [\d.]+, consistency [\d.]+, nfe [\d.]+"
    assert re.fullmatch(rf"best by psnr: {options} \({figures}\); written to {out}", last), last
    assert run("--grid", "eta=0.5,1 mixing=paper")[0] == 0
    first = json.loads(out.read_text())
    assert len(first["trials"]) == 2 and first["best"] in first["trials"] and first["objective"] == "psnr"
    first["trials"][0]["mean"]["psnr"] = 99.0  # would be measured anew, and so overwritten, without resuming
    out.write_text(json.dumps(first))
    assert run("--grid", "eta=0.5,1,2 mixing=paper")[0] == 0
    second = json.loads(out.read_text())
    assert len(second["trials"]) == 3 and second["best"]["mean"]["psnr"] == 99.0
    assert run("--grid", "eta=1 mixing=paper")[0] == 0  # a smaller grid: its own best, and nothing is lost
    third = json.loads(out.read_text())
    assert len(third["trials"]) == 3 and third["best"]["settings"]["guidance"] == 1
    code, error = run("--grid", "eta=1", "--save")
    saved = json.loads((tiny_model / "presets.json").read_text())
    assert code == 0 and saved[-1]["steps"] == 4 and saved[-1]["settings"]["guidance"] == 1 and saved[-1]["psnr"] > 0
    (tiny_model / "presets.json").write_text(json.dumps(saved[:-1]))
    code, error = run("--grid", "eta=1", "--seed", "5")
    assert code == 2 and "holds a search with another seed" in error


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--method", "ae"), "nothing to search for ae"),
        (("--grid", ""), "nothing to search"),
        (
            ("--grid", "eta=1 gamma=40,400 start_step=9"),
            "guidance, gamma, start_step: not used by method flash(proximal), which takes trust, error_share,",
        ),
        (("--method", "resample", "--grid", "gamma=1 omega=1"), "which takes gamma, proximal, steps, delta"),
        (("--method", "ae", "--steps", "4"), "--steps: not used by method ae, which takes no settings"),
        (("--method", "bound"), "the autoencoder alone on the true image, for `evaluate` only"),
        (("--method", "flash(psld)", "--grid", "eta=1 delta=0,2"), "delta is 2.0; expected a number in [0, 1]"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_its_first_trial(
    options, reason, tmp_path, monkeypatch, capsys, image_folder, tiny_model
):
    import sys

    from flashdiffusion.cli import main

    out = tmp_path / "tune.json"
    arguments = ["tune", "--data", image_folder, "--limit", 2, "--model", tiny_model, "--out", out, *options]
    monkeypatch.setattr(sys, "argv", ["flashdiffusion", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and reason in capsys.readouterr().err and not out.exists()


def test_a_trial_that_lost_an_image_has_no_figures_but_one_with_an_unreadable_image_has():
    image = torch.zeros(3, 8, 8)
    good = Evaluated(0, "a", Record("a", metrics={"psnr": 20.0, "ssim": 0.5}, nfe=7), image)
    unread, diverged = Evaluated(1, "b", failed="no image"), Evaluated(2, "c", clean=image, failed="it diverged")
    assert means([good, unread]) == {"images": 1, "psnr": 20.0, "ssim": 0.5, "nfe": 7}
    lost = means([good, diverged])
    assert lost["psnr"] is None and lost["lpips"] is None and lost["nfe"] == 7
    trials = [Trial(Settings(eta=1), lost), Trial(Settings(eta=2), means([good]))]
    assert best(trials, "psnr").settings.eta == 2
