"""Every input has a result or a failure at the end, however many there are."""

import json

import pytest


@pytest.mark.parametrize("options", [("--method", "ae"), ("--method", "ccdf(latent-dps)", "--start-step", 0)])
def test_no_image_is_lost_when_all_are_done_at_their_start(flash, tmp_path, image_folder, tiny_model, options):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for n in range(70):  # more than are read together
        (inputs / f"{n:03d}.png").write_bytes((image_folder / f"image-{n % 12:02d}.png").read_bytes())
    common = ("--model", tiny_model, "--steps", 20) if "ae" not in options else ("--model", tiny_model)
    out = tmp_path / "out"
    restored = flash("restore", inputs, "--physics", "gaussian-blur:std=1", "--fit", "--out", out, *common, *options)
    assert restored.code == 0, restored.err
    assert len(json.loads((out / "results.json").read_text())["records"]) == len(list(out.glob("*.png"))) == 70
    evaluated = flash("evaluate", "--data", inputs, "--out", tmp_path / "e.json", *common, *options)
    assert evaluated.code == 0, evaluated.err
    assert len(json.loads((tmp_path / "e.json").read_text())["records"]) == 70


def test_an_image_without_a_result_fails_the_command(flash, tmp_path, image_folder, tiny_model, monkeypatch):
    from flashdiffusion.jobs.restore import RestoreWorker

    whole = RestoreWorker.__call__
    monkeypatch.setattr(RestoreWorker, "__call__", lambda self, items: list(whole(self, items))[1:])
    with pytest.raises(RuntimeError, match="have no result"):
        flash(
            "restore",
            image_folder,
            "--physics",
            "gaussian-blur:std=1",
            "--fit",
            "--model",
            tiny_model,
            "--method",
            "ae",
            "--out",
            tmp_path / "out",
        )
