"""`flashdiffusion tune`: what it writes, how it is continued, what it refuses."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from flashdiffusion.data import load_image


@pytest.fixture
def tune(flash, image_folder, tiny_model, tmp_path):
    """`tune("--trials", 2)` runs the command on two images; its results are in tune.json."""

    def run(*options, out="tune.json", limit=2):
        data = ("--data", image_folder, "--limit", limit, "--model", tiny_model, "--out", tmp_path / out)
        return flash("tune", *data, "--method", "flash(latent-dps)", "--steps", 4, *options)

    return run


def _results(tmp_path, out="tune.json"):
    return json.loads((tmp_path / out).read_text())


def test_the_command_searches_a_grid_and_says_what_reaches_the_best_again(tune, tmp_path):
    ended = tune("--grid", "eta=0.5,1 mixing=paper")
    assert ended.code == 0, ended.err
    result = _results(tmp_path)
    assert len(result["trials"]) == 2 and result["best"] in result["trials"] and result["objective"] == "psnr"
    assert {trial["settings"]["guidance"] for trial in result["trials"]} == {0.5, 1.0}
    # The options that reach this again, none of them of another method.
    fit = r"--set decoder_error=0\.028 --set fit_iterations=5"
    start = rf"{fit} --set correction=[\d.]+ --set mixing=paper --set refine=false"
    options = rf"--set guidance=[\d.]+ {start} --set correct_physics=true --set steps=4 --set delta=1"
    last = ended.out.splitlines()[-1]
    figures = r"psnr [\d.]+, ssim [\d.]+, consistency [\d.]+, nfe [\d.]+"
    assert re.fullmatch(rf"best by psnr: {options} \({figures}\); written to {tmp_path}/tune.json", last), last
    for kind in ("trials", "settings", "cost"):
        image = load_image(tmp_path / f"tune-{kind}.png")
        assert image.shape[1] > 300 and image.std() > 0.05


def test_the_command_is_continued_after_an_interrupt(tune, tmp_path, monkeypatch):
    from flashdiffusion.jobs import measuring

    options = ("--space", "eta=0.5:4:log correction=0:1", "--trials", 3, "--plots", tmp_path / "plots")
    assert tune(*options, out="whole.json", limit=5).code == 0
    whole, measured = measuring.evaluate, []

    def killed(*arguments, **more):
        for one in whole(*arguments, **more):
            measured.append(one.id)
            yield one
            if len(measured) == 7:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "evaluate", killed)
        ended = tune(*options, limit=5)
    assert ended.code == 130 and "interrupted: 1 of 3 trials are done; --resume continues" in ended.err
    assert not (tmp_path / "tune.json").exists()
    refused = tune(*options, limit=5)
    assert refused.code == 2 and "tune.jsonl is of an earlier search; --resume continues it" in refused.err
    ended = tune(*options, "--resume", limit=5)
    assert ended.code == 0 and ended.out.startswith("2/3: flash(latent-dps) on gaussian-blur: guidance ")
    results = [_results(tmp_path, out) for out in ("whole.json", "tune.json")]
    for before, after in zip(*([*one["trials"], one["best"]] for one in results), strict=True):
        assert before["settings"] == after["settings"] and before["state"] == after["state"]
        means = [{**one["mean"], "seconds": 0} for one in (before, after)]
        assert means[0] == pytest.approx(means[1], rel=1e-4), "images share batches with others after a kill"
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"{name}-{kind}.png" for name in ("whole", "tune") for kind in ("trials", "settings", "cost")
    }


def test_the_command_refuses_to_continue_another_search(tune, tmp_path):
    grid = ("--grid", "eta=1")
    assert tune(*grid).code == 0
    for options, reason in (
        (("--seed", 5), "seed (1, now 5)"),
        (("--max-nfe", 5), "budget nfe (none, now 5.0)"),
        (("--objective", "ssim"), "objective (psnr, now ssim)"),
        (("--delta", 0.5), "settings delta (1.0, now 0.5)"),
        (("--no-prune",), "prune (True, now False)"),
    ):
        ended = tune(*grid, "--resume", *options)
        assert ended.code == 2 and f"holds a search with another {reason}" in ended.err, ended.err
    ended = tune("--grid", "eta=1,2", "--resume")
    assert ended.code == 2 and "grid (eta=1, now eta=1,2)" in ended.err
    (tmp_path / "tune.jsonl").unlink()
    ended = tune(*grid, "--resume")
    assert ended.code == 2 and "has no journal tune.jsonl beside it to continue" in ended.err
    assert len(_results(tmp_path)["trials"]) == 1


def test_a_corrected_physics_is_said_once(tune, tmp_path, monkeypatch):
    from flashdiffusion.jobs import measuring

    whole = measuring.evaluate

    def correcting(*arguments, **more):
        for one in whole(*arguments, **more):
            one.record = replace(one.record, physics_corrected=one.index == 1)
            yield one

    monkeypatch.setattr(measuring, "evaluate", correcting)
    ended = tune("--grid", "eta=0.5,1")
    assert ended.code == 0 and ended.err.count("1 of 2 images do not fit the physics that was told") == 1, ended.err
    assert f"physics_corrected in {tmp_path / 'tune.jsonl'}" in ended.err


def test_images_that_changed_are_noticed(flash, tmp_path, image_folder, tiny_model):
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    options = ("tune", "--data", images, "--limit", 2, "--model", tiny_model, "--out", tmp_path / "tune.json")
    options += ("--method", "flash(latent-dps)", "--steps", 4, "--grid", "eta=1", "--resume")
    assert flash(*options).code == flash(*options).code == 0
    shutil.copy(images / "image-05.png", images / "image-00.png")
    ended = flash(*options)
    assert ended.code == 2 and "holds a search with another content" in ended.err


def test_the_best_is_saved_and_the_search_can_be_continued_after_that(tune, tiny_model, tmp_path):
    presets = (tiny_model / "presets.json").read_text()
    try:
        assert tune("--space", "eta=0.5:4", "--trials", 2, "--save").code == 0
        best, saved = _results(tmp_path)["best"], json.loads((tiny_model / "presets.json").read_text())[-1]
        assert saved["steps"] == 4 and saved["settings"]["guidance"] == best["settings"]["guidance"]
        assert saved["psnr"] == best["mean"]["psnr"] and saved["nfe"] == best["mean"]["nfe"]
        ended = tune("--space", "eta=0.5:4", "--trials", 3, "--save", "--resume")
        assert ended.code == 0 and len(_results(tmp_path)["trials"]) == 3, ended.err
    finally:
        (tiny_model / "presets.json").write_text(presets)


def test_what_is_over_the_budget_is_written_and_said(tune, tmp_path):
    ended = tune("--grid", "eta=1 correction=1,2", "--max-nfe", 0.5, "--max-gflop", 1e-6)
    assert ended.code == 2 and "no trial is within the budget of nfe 0.5, gflop 1e-06; the cheapest takes" in ended.err
    result = _results(tmp_path)
    assert [trial["state"] for trial in result["trials"]] == ["over budget"] * 2 and "best" not in result
    assert (tmp_path / "tune-cost.png").exists()


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
        (("--space", "trust=0:4"), "trust is 0; expected a number above 0"),
        (("--space", "thrust=1:4"), "unknown setting 'thrust'; did you mean trust"),
        (("--method", "flash(psld)", "--task", "nonlinear-blur"), "psld needs linear degradations"),
        (("--noise-std", -1), "noise std is -1.0; expected a finite number >= 0"),
        (("--trials", 0), "trials is 0; expected at least 1"),
        (("--limit", 0), "limit is 0; expected at least 1"),
        (("--objective", "lpips"), "objective lpips: lpips needs weights; give --lpips FILE"),
        (("--objective", "ssim=1"), "of ssim more is better; expected a negative weight: ssim=-1"),
        (("--max-nfe", -1), "--max-nfe is -1; expected a finite number above 0"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_its_first_trial(
    options, reason, flash, tmp_path, image_folder, tiny_model
):
    data = ("--data", image_folder, *(() if "--limit" in options else ("--limit", 2)))
    ended = flash("tune", *data, "--model", tiny_model, "--out", tmp_path / "tune.json", *options)
    assert ended.code == 2 and reason in ended.err and not [*tmp_path.glob("tune*")], ended.err


def test_a_results_file_by_the_journals_name_is_refused(tune):
    ended = tune("--grid", "eta=1", out="tune.jsonl")
    assert ended.code == 2 and "tune.jsonl ends in .jsonl, as the journal beside it will" in ended.err
