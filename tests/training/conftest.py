"""A tiny recipe that ends by its steps, logs every one of them, and saves a checkpoint at every one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flashdiffusion.training.config import Recipe
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import train


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    # The learning rate follows the larger part of time and steps used: here always the steps.
    return replace(get_recipe("tiny"), max_minutes=1e5, checkpoint_minutes=0.0)


@pytest.fixture(scope="session")
def lay_autoencoder(tmp_path_factory, image_folder, recipe) -> Callable[[Path, int], None]:
    """`lay_autoencoder(out, steps)` puts a run of the autoencoder's stage of so many steps there, trained once."""
    trained: dict[int, Path] = {}

    def lay(out: Path, steps: int) -> None:
        if steps not in trained:
            trained[steps] = tmp_path_factory.mktemp("autoencoder")
            train("autoencoder", [image_folder], recipe, trained[steps], max_steps=steps)
        shutil.copytree(trained[steps], out, dirs_exist_ok=True)

    return lay
