"""Two processes on one global batch train what one process trains."""

import os
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file

WEIGHTS = "autoencoder/diffusion_pytorch_model.safetensors"
RUN = """
import sys
from dataclasses import replace
from flashdiffusion.training import loop
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import train

# Each process logs by its own clock, and these clocks differ: nothing that waits for the others may hang on one.
loop.LOG_SECONDS = float(sys.argv[3])
recipe = replace(get_recipe("tiny"), max_minutes=1e5)
train("autoencoder", [sys.argv[1]], recipe, sys.argv[2], max_steps=6)
"""


def _free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def _start(folder, out, world: int) -> list[subprocess.Popen]:
    port, processes = _free_port(), []
    for rank in range(world):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if world > 1 else {}
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | address
        if world > 1:
            environment |= ranks
        log_seconds = str([-1.0, 1e9][rank])
        command = [sys.executable, "-c", RUN, str(folder), str(out), log_seconds]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return processes


def test_two_processes_equal_one(tmp_path, picture_folder):
    for name, world in (("one", 1), ("two", 2)):
        for process in _start(picture_folder, tmp_path / name, world):
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    one, two = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "two" / WEIGHTS)
    for key, value in one.items():
        # Adam's first steps turn rounding of near-zero gradients into steps of full size, hence the tolerance.
        torch.testing.assert_close(two[key], value, atol=2e-3, rtol=0)
    differences = torch.cat([(two[key] - value).abs().flatten() for key, value in one.items()])
    assert float(differences.median()) < 1e-5
