"""A picture's result is the same alone and beside others, whatever damaged it."""

from pathlib import Path

import pytest
import torch

import flashdiffusion
from examples import examples
from flashdiffusion import FlashPipeline
from flashdiffusion.data import load_image
from flashdiffusion.physics import JPEG, Compose, GaussianBlur, concatenate
from local_model import local_pipeline

SIZE = (32, 32)
PORTRAIT = Path(flashdiffusion.__file__).parent / "assets" / "portrait.png"
LEVEL = 1 / 255
MADE = {f"{name} {n}": one for name, made in examples(SIZE).items() for n, one in enumerate(made)}


@pytest.fixture(scope="module")
def local():
    return local_pipeline()


@pytest.fixture(scope="module", params=[("photos", 64), ("faces-128", 64)], ids=lambda one: one[0])
def embedded(request):
    return FlashPipeline.from_pretrained(request.param[0]), request.param[1]


def _largest(pipeline, y, physics, rows, **options):
    """The largest difference of a value, in grey levels, between all together and each of some rows alone."""
    names = [str(n) for n in range(len(y))]
    together = pipeline(y, physics, ids=names, **options)
    worst = 0.0
    for n in rows:
        alone = pipeline(y[n : n + 1], physics.take(torch.tensor([n])), ids=[names[n]], **options)
        assert float(alone.severity[0]) == pytest.approx(float(together.severity[n]), rel=1e-4)
        worst = max(worst, float((alone.images[0] - together.images[n]).abs().max()) / LEVEL)
    return worst


@pytest.mark.filterwarnings("ignore")  # of examples that are no pictures
@pytest.mark.parametrize("name", MADE)
def test_every_degradation(local, name):
    x = 0.2 + 0.6 * torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    physics = MADE[name]
    y = physics(x, torch.Generator().manual_seed(1))
    assert _largest(local, y, physics, [0, 3], steps=3, seed=0) < 0.5


@pytest.mark.filterwarnings("ignore:images of 64 x 64 pixels are far")
def test_rounding_is_not_amplified_by_trained_networks(embedded):
    """Fits divided by slopes of rounding next to 0, and made 8 grey levels of the last bits of what networks give."""
    pipeline, side = embedded
    x = load_image(PORTRAIT, side).expand(2, -1, -1, -1)
    physics = concatenate([JPEG([75.0], 0.02), Compose(GaussianBlur([1.0]), JPEG([75.0], 0.02))])
    y = physics(x, torch.Generator().manual_seed(0))
    assert _largest(pipeline, y, physics, [0, 1], seed=0) < 0.5
