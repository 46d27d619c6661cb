"""What several test files use: images, a tiny model trained for a few steps, commands run in this process."""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does; read when torch is imported

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test reaches for the network

IMAGES = 12


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    # Beside another process of tests, threads would fight for the cores.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))


def smooth_image(generator: np.random.Generator, width: int = 48, height: int = 40) -> Image.Image:
    """A colour gradient with two low-frequency waves and a few rectangles."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y / height)[..., None], (x / width)[..., None]
    corners = generator.uniform(0, 255, (4, 3))
    image = corners[0] * (1 - x) * (1 - y) + corners[1] * x * (1 - y) + corners[2] * (1 - x) * y + corners[3] * x * y
    for _ in range(2):
        wave = np.sin(2 * np.pi * (generator.uniform(0, 2) * x + generator.uniform(0, 2) * y + generator.uniform()))
        image = image + wave * generator.uniform(-40, 40, 3)
    for _ in range(3):
        top, left = generator.integers(0, height - 8), generator.integers(0, width - 8)
        rows, columns = slice(top, top + generator.integers(4, 20)), slice(left, left + generator.integers(4, 20))
        image[rows, columns] = generator.uniform(0, 255, 3)
    return Image.fromarray(image.clip(0, 255).round().astype(np.uint8))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Twelve RGB images of 48 x 40 pixels."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(IMAGES):
        smooth_image(generator).save(folder / f"image-{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, image_folder) -> Path:
    """A complete model folder of the recipe `tiny`, all but untrained."""
    from flashdiffusion import FlashPipeline
    from flashdiffusion.training.recipes import get_recipe
    from flashdiffusion.training.run import train

    out = tmp_path_factory.mktemp("models") / "tiny"
    model = train("all", [image_folder], get_recipe("tiny"), out, max_minutes=60, max_steps=3)
    FlashPipeline.presets_of().write(model)
    return model


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_model):
    """The tiny model, loaded."""
    from flashdiffusion import FlashPipeline

    return FlashPipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def tiny_photos(tmp_path_factory, image_folder) -> Path:
    """A model of photographs, trained for three steps."""
    from flashdiffusion.training.recipes import get_recipe
    from flashdiffusion.training.run import train

    out = tmp_path_factory.mktemp("photos")
    for stage in ("autoencoder", "denoiser", "severity"):
        train(stage, [image_folder], get_recipe("tiny-photos"), out, max_steps=3)
    return out


@pytest.fixture(scope="session")
def local_folder(tmp_path_factory) -> Path:
    """The model of `local_model` as a folder that any process can load."""
    from local_model import local_pipeline

    folder = tmp_path_factory.mktemp("local") / "model"
    local_pipeline().save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def flash(request, monkeypatch, capsys) -> Callable[..., Run]:
    """`flash("restore", path, "--out", folder)` runs the command line."""

    from flashdiffusion.cli import main

    if "every" not in request.fixturenames:  # on a busy machine a command would say how far it is
        monkeypatch.setattr("flashdiffusion.progress.EVERY", math.inf)

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["flashdiffusion", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Run(int(end.value.code or 0), captured.out, captured.err)

    return run
