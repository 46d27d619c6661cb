"""The embedded model: whole, small, offline, and of use on the bundled portrait."""

from importlib.resources import as_file, files

import pytest
import torch

from flashdiffusion import FlashPipeline, GaussianBlur
from flashdiffusion.data import load_image
from flashdiffusion.metrics import psnr
from flashdiffusion.seeds import image_generator

STRENGTHS = [0.5, 1.5, 3.0]
ASSETS = files("flashdiffusion") / "assets"


@pytest.fixture(scope="module")
def pipeline():
    return FlashPipeline.from_pretrained()


@pytest.fixture(scope="module")
def portrait():
    with as_file(ASSETS / "portrait.png") as path:
        return load_image(path, 128)[None]


def _size(folder) -> int:
    return sum(_size(p) if p.is_dir() else len(p.read_bytes()) for p in folder.iterdir())


def test_embedded_models_stay_small():
    assert _size(ASSETS) < 48e6


def test_its_card_tells_data_licence_and_command():
    card = (ASSETS / "faces-128" / "README.md").read_text()
    for word in ("CelebA", "research", "flashdiffusion train", "minutes", "Limits"):
        assert word in card


def test_no_folder_of_that_name_takes_its_place(tmp_path, monkeypatch):
    (tmp_path / "faces-128").mkdir()
    monkeypatch.chdir(tmp_path)
    assert FlashPipeline.from_pretrained().sample_size == 128


def test_severity_and_steps_rise_with_the_blur(pipeline, portrait):
    levels = [0.2, 0.7, 1.2, 1.8, 2.4, 3.0]
    ys = [GaussianBlur([s])(portrait, image_generator(0, str(s))) for s in levels]
    var = pipeline.severity(torch.cat(ys)).var
    assert bool((var.diff() > 0).all())


def test_restores_the_portrait(pipeline, portrait):
    names = [str(s) for s in STRENGTHS]
    y = torch.cat([GaussianBlur([s])(portrait, image_generator(0, n)) for s, n in zip(STRENGTHS, names, strict=True)])
    result = pipeline(y, GaussianBlur(STRENGTHS), ids=names)
    x = portrait.expand(3, -1, -1, -1)
    gain = psnr(result.images, x) - psnr(y.clamp(0, 1), x)
    assert bool((gain > 1).all()), gain.tolist()
    assert bool((result.nfe.diff() > 0).all())
    assert int(result.nfe.max()) < 500
