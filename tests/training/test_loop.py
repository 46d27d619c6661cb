"""The loop: resumed runs equal uninterrupted ones, and what is on disk is whole."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.training import loop
from flashdiffusion.training.run import FOLDERS, OPTIONAL_STAGES, STAGES, train
from logs import read_log

STEPS = 8
WEIGHTS = "diffusion_pytorch_model.safetensors"


class _Stop(Exception):
    """Stands for a kill."""


def _stop_in_save(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The run ends when it has logged `step` and is about to write its checkpoint."""
    save = loop._Training._save

    def stopping(self):
        if self.step == step:
            raise _Stop
        save(self)

    monkeypatch.setattr(loop._Training, "_save", stopping)


def _assert_same_weights(a: Path, b: Path) -> None:
    mine, other = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, other[key], atol=1e-5, rtol=0)


# -- resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES + OPTIONAL_STAGES)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path, monkeypatch, image_folder, recipe, lay_autoencoder, stage
):
    for name in ("whole", "parts"):
        if stage != "autoencoder":
            lay_autoencoder(tmp_path / name, 2)
    train(stage, [image_folder], recipe, tmp_path / "whole", max_steps=STEPS)

    with monkeypatch.context() as patch, pytest.raises(_Stop):
        _stop_in_save(patch, 5)
        train(stage, [image_folder], recipe, tmp_path / "parts", max_steps=STEPS)
    assert not (tmp_path / "parts" / FOLDERS[stage]).exists()
    assert [row["step"] for row in read_log(tmp_path / "parts" / f"{stage}.csv")] == [1, 2, 3, 4, 5]
    assert torch.load(tmp_path / "parts" / f"{stage}.ckpt", weights_only=True)["step"] == 4
    train(stage, [image_folder], recipe, tmp_path / "parts", max_steps=STEPS, resume=True)

    _assert_same_weights(tmp_path / "whole" / FOLDERS[stage], tmp_path / "parts" / FOLDERS[stage])
    whole, parts = (read_log(tmp_path / name / f"{stage}.csv") for name in ("whole", "parts"))
    assert [row["step"] for row in parts] == [row["step"] for row in whole] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], abs=1e-5)


# Writes half of the fourth checkpoint, and is killed then.
_KILLED = """
import os, signal, sys
from dataclasses import replace
import torch
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import train

torch.set_num_threads(1)
save, calls = torch.save, []

def killed(state, path):
    calls.append(path)
    save(state, path)
    if len(calls) == 4:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = killed
recipe = replace(get_recipe("tiny"), max_minutes=float(sys.argv[3]), checkpoint_minutes=0.0)
train("autoencoder", [sys.argv[1]], recipe, sys.argv[2], max_steps=int(sys.argv[4]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_killed_while_it_writes_its_checkpoint_resumes_from_the_one_before(tmp_path, image_folder, recipe):
    train("autoencoder", [image_folder], recipe, tmp_path / "whole", max_steps=STEPS)
    arguments = [image_folder, tmp_path / "killed", recipe.max_minutes, STEPS]
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, arguments)], capture_output=True, env=os.environ, timeout=100
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert torch.load(tmp_path / "killed" / "autoencoder.ckpt", weights_only=True)["step"] == 3
    train("autoencoder", [image_folder], recipe, tmp_path / "killed", max_steps=STEPS, resume=True)
    _assert_same_weights(tmp_path / "whole" / "autoencoder", tmp_path / "killed" / "autoencoder")


def test_a_kill_while_the_trained_folder_is_written_leaves_none(tmp_path, monkeypatch, image_folder, recipe):
    from flashdiffusion.training.autoencoder import AutoencoderStage

    save = AutoencoderStage.save

    def half(self, out):
        save(self, out)
        (out / "autoencoder" / WEIGHTS).unlink()
        raise _Stop

    with monkeypatch.context() as patch, pytest.raises(_Stop):
        patch.setattr(AutoencoderStage, "save", half)
        train("autoencoder", [image_folder], recipe, tmp_path, max_steps=2)
    assert not (tmp_path / "autoencoder").exists()
    train("all", [image_folder], recipe, tmp_path, max_steps=2, resume=True)
    assert (tmp_path / "autoencoder" / WEIGHTS).exists() and (tmp_path / "model_index.json").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_finished_stage_is_continued_with_more_steps(tmp_path, image_folder, recipe, lay_autoencoder):
    lay_autoencoder(tmp_path, 2)
    before = load_file(tmp_path / "autoencoder" / WEIGHTS)
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=4, resume=True)
    after = load_file(tmp_path / "autoencoder" / WEIGHTS)
    assert [row["step"] for row in read_log(tmp_path / "autoencoder.csv")] == [1, 2, 3, 4]
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_finished_stage_resumed_within_its_steps_stays_as_it_is(tmp_path, image_folder, recipe, lay_autoencoder):
    lay_autoencoder(tmp_path / "a", 2)
    before, log = load_file(tmp_path / "a" / "autoencoder" / WEIGHTS), (tmp_path / "a" / "autoencoder.csv").read_text()
    train("autoencoder", [image_folder], recipe, tmp_path / "a", max_steps=2, resume=True)
    after = load_file(tmp_path / "a" / "autoencoder" / WEIGHTS)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (tmp_path / "a" / "autoencoder.csv").read_text() == log


def test_resuming_all_goes_on_with_the_first_stage_that_is_not_done(
    tmp_path, monkeypatch, image_folder, recipe, lay_autoencoder
):
    lay_autoencoder(tmp_path, 3)
    done = (tmp_path / "autoencoder.ckpt").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(_Stop):
        _stop_in_save(patch, 2)
        train("denoiser", [image_folder], recipe, tmp_path, max_steps=3)
    train("all", [image_folder], recipe, tmp_path, max_steps=3, resume=True)
    assert (tmp_path / "autoencoder.ckpt").read_bytes() == done
    for stage in STAGES:
        assert [row["step"] for row in read_log(tmp_path / f"{stage}.csv")] == [1, 2, 3]


# -- refusals -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_not_overwritten_without_resume(tmp_path, image_folder, recipe, lay_autoencoder):
    lay_autoencoder(tmp_path, 1)
    before = (tmp_path / "autoencoder.ckpt").read_bytes()
    with pytest.raises(InputError, match=r"autoencoder\.ckpt exists; pass --resume to continue it"):
        train("autoencoder", [image_folder], recipe, tmp_path, max_steps=2)
    assert (tmp_path / "autoencoder.ckpt").read_bytes() == before


def test_the_checkpoint_of_another_recipe_is_refused(tmp_path, image_folder, recipe, lay_autoencoder):
    lay_autoencoder(tmp_path, 1)
    with pytest.raises(CheckpointError, match="is of config 'tiny', stage 'autoencoder'; expected 'mine'"):
        other = replace(recipe, name="mine")
        train("autoencoder", [image_folder], other, tmp_path, max_steps=2, resume=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, image_folder, recipe, lay_autoencoder):
    lay_autoencoder(tmp_path, 1)
    model = recipe.autoencoder.model | {"latent_channels": 4}
    other = replace(recipe, autoencoder=replace(recipe.autoencoder, model=model))
    with pytest.raises(CheckpointError, match=r"made with other settings of model"):
        train("autoencoder", [image_folder], other, tmp_path, max_steps=2, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path, image_folder, recipe, lay_autoencoder):
    lay_autoencoder(tmp_path, 1)
    path = tmp_path / "autoencoder.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"autoencoder\.ckpt cannot be resumed from"):
        train("autoencoder", [image_folder], recipe, tmp_path, max_steps=2, resume=True)


def test_resuming_with_nothing_there_starts_from_the_beginning(tmp_path, image_folder, recipe, lay_autoencoder):
    """And one seed gives one model, to the last digit."""
    train("autoencoder", [image_folder], recipe, tmp_path / "a", max_steps=2, resume=True)
    lay_autoencoder(tmp_path / "b", 2)
    a, b = (torch.load(tmp_path / n / "autoencoder.ckpt", weights_only=True)["modules"]["autoencoder"] for n in "ab")
    assert a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


# -- what is learnt -------------------------------------------------------------------------------------


def test_the_time_box_ends_a_run(tmp_path, image_folder, recipe):
    train("autoencoder", [image_folder], recipe, tmp_path, max_minutes=1e-6)
    assert [row["step"] for row in read_log(tmp_path / "autoencoder.csv")] == [1]


def test_every_epoch_takes_every_image_once(tmp_path, monkeypatch, image_folder, recipe):
    seen: list[int] = []
    rows = loop.ImageDataset.rows

    def noting(self, indices):
        seen.extend(indices)  # the steps' first; sample sheets come after the run
        return rows(self, indices)

    monkeypatch.setattr(loop.ImageDataset, "rows", noting)
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=6)  # of 4 of the 12 images
    first, second = seen[:12], seen[12:24]
    assert sorted(first) == list(range(12)) and sorted(second) == list(range(12, 24)), "each once, the second time"
    assert first != [index - 12 for index in second]


@pytest.mark.parametrize("stage", STAGES + OPTIONAL_STAGES)
def test_the_loss_falls(tmp_path, image_folder, recipe, lay_autoencoder, stage):
    recipe = replace(recipe, checkpoint_minutes=1.0)
    for name in ("severity", "regressor"):  # so many degradations that four images are no mean
        config = getattr(recipe, name)
        recipe = replace(recipe, **{name: replace(config, loop=replace(config.loop, batch_size=16))})
    if stage != "autoencoder":
        lay_autoencoder(tmp_path, 20)
    train(stage, [image_folder], recipe, tmp_path, max_steps=60)
    losses = [row["loss"] for row in read_log(tmp_path / f"{stage}.csv")]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
