"""`accelerate launch` on two processes trains what one process trains, step by step."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flashdiffusion.priors import load_autoencoder
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import STAGES
from flashdiffusion.training.severity import SeverityStage
from logs import read_log

STEPS = 8
WEIGHTS = "autoencoder/diffusion_pytorch_model.safetensors"
TRAIN = ["--config", "tiny", "--max-steps", str(STEPS), "--max-minutes", "1e5"]


def _launch(world: int, *script: str | Path) -> None:
    # accelerate's --cpu starts one process whatever --num_processes says; its launcher of several is --multi_gpu.
    many = ["--multi_gpu", "--main_process_port", "0"] if world > 1 else ["--cpu"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *many, "--num_processes", str(world), *script]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_two_processes_have_the_loss_curves_of_one(tmp_path, image_folder):
    for name, world in (("one", 1), ("two", 2)):
        paths = ["--data", image_folder, "--out", tmp_path / name]
        _launch(world, "-m", "flashdiffusion", "train", "all", *paths, *TRAIN)
    for stage in STAGES:
        one, two = (read_log(tmp_path / name / f"{stage}.csv") for name in ("one", "two"))
        assert [row["step"] for row in two] == [row["step"] for row in one] == list(range(1, STEPS + 1))
        for key in one[0].keys() - {"step", "seconds", "images_per_second"}:
            assert [row[key] for row in two] == pytest.approx([row[key] for row in one], rel=1e-4, abs=1e-5), key
    one, two = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "two" / WEIGHTS)
    for key, value in one.items():
        # Adam's first steps turn rounding of near-zero gradients into steps of full size, hence the tolerance.
        torch.testing.assert_close(two[key], value, atol=2e-3, rtol=0)
    differences = torch.cat([(two[key] - value).abs().flatten() for key, value in one.items()])
    assert float(differences.median()) < 1e-5


# The second process's clock runs a million times faster: by it, the time is up at once and every step is to be logged.
_CLOCKS = """
import os, sys, time
from dataclasses import replace
from types import SimpleNamespace
from flashdiffusion.training import loop
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import train

speed = 10 ** (6 * int(os.environ["RANK"]))
loop.time = SimpleNamespace(monotonic=lambda: speed * time.monotonic())
recipe = replace(get_recipe("tiny"), max_minutes=1e5, log_seconds=1e4)
train("autoencoder", [sys.argv[1]], recipe, sys.argv[2], max_steps=4)
"""


def test_processes_go_by_the_clock_of_the_first(tmp_path, image_folder):
    script = tmp_path / "clocks.py"
    script.write_text(_CLOCKS)
    _launch(2, script, image_folder, tmp_path / "out")
    assert [row["step"] for row in read_log(tmp_path / "out" / "autoencoder.csv")] == [1, 4]


@pytest.mark.parametrize("share", [0.25, 0.4, 1.0])
def test_the_image_term_is_of_the_same_images_for_any_number_of_processes(tiny_model, share):
    config = replace(get_recipe("tiny").severity, image_share=share)
    stage = SeverityStage(config, load_autoencoder(tiny_model / "autoencoder"))
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def mean_over(processes: int) -> float:
        size = 8 // processes
        parts = [slice(first, first + size) for first in range(0, 8, size)]
        with torch.no_grad():
            logs = [stage("severity", x[rows], Draws(0, 0, 8, rows, "cpu"))[1] for rows in parts]
        return sum(float(log["image"]) for log in logs) / processes

    assert [mean_over(n) for n in (2, 4, 8)] == pytest.approx([mean_over(1)] * 3, rel=1e-4)
