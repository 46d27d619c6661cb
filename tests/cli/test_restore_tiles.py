"""`restore --tile`: pictures in tiles, what records hold of them, and runs that are continued."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.engine.tiling import Tiling
from flashdiffusion.errors import InputError
from flashdiffusion.jobs import Item, ModelChoice, RestoreJob, run_local
from flashdiffusion.jobs.tiles import InTiles
from flashdiffusion.metrics.consistency import consistency
from flashdiffusion.physics import JPEG, Compose, GaussianBlur, RandomInpainting, SuperResolution
from flashdiffusion.solvers import Problem
from local_model import local_pipeline

BLUR = ("--physics", "gaussian-blur:std=1", "--method", "ae")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    local_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A large and a small one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, size in (("large", (140, 90, 3)), ("small", (32, 28, 3))):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def _records(out):
    return {one["id"]: one for one in json.loads((out / "results.json").read_text())["records"]}


def test_a_picture_is_restored_in_tiles(flash, tmp_path, pictures, model):
    whole, tiled = tmp_path / "whole", tmp_path / "tiled"
    options = (*BLUR, "--model", model, "--device", "cpu", "--reference", pictures)
    assert flash("restore", pictures, *options, "--out", whole, "--tile", 0).code == 0
    ended = flash("restore", pictures, *options, "--out", tiled, "--tile", 64, "--maps", tmp_path / "maps")
    assert ended.code == 0, ended.err
    for name in ("large", "small"):
        one, other = (np.asarray(Image.open(out / f"{name}.png")).astype(int) for out in (whole, tiled))
        assert np.abs(one - other).max() <= 1
        with Image.open(tmp_path / "maps" / f"{name}.png") as picture:
            assert picture.size == one.shape[1::-1]
    before, after = _records(whole), _records(tiled)
    assert "tiles" not in before["large"] and "tiles" not in after["small"]
    tiles = after["large"]["tiles"]
    shape = len(tiles["rows"]), len(tiles["columns"])
    assert min(shape) > 1 and all(np.shape(tiles[key]) == shape for key in ("severity", "start_step", "nfe"))
    assert [path.name for path in (tmp_path / "maps" / "steps").iterdir()] == ["large.png"]
    for key in ("consistency", "ssim"):
        assert after["large"][key] == pytest.approx(before["large"][key], rel=1e-3)
    ended = flash("restore", pictures, *options, "--out", tiled, "--tile", 48, "--resume")
    assert ended.code == 2 and "tile" in ended.err
    assert flash("restore", pictures, *options, "--out", tiled, "--tile", 64, "--resume").code == 0


def test_a_tile_that_is_too_small_fails_the_picture_in_one_line(flash, tmp_path, pictures, model):
    physics = ("--physics", "gaussian-blur:std=4", "--method", "ae")
    ended = flash("restore", pictures, *physics, "--model", model, "--out", tmp_path / "out", "--tile", 32)
    assert ended.code == 1
    assert "large.png: tile is 32; expected at least" in ended.err


def test_a_tile_that_is_none_is_refused(flash, tmp_path, pictures, model):
    ended = flash("restore", pictures, *BLUR, "--model", model, "--out", tmp_path / "out", "--tile", -4)
    assert ended.code == 2 and "tile is -4; expected whole pixels" in ended.err
    with pytest.raises(InputError, match="tile is -4"):
        RestoreJob(ModelChoice(str(model), "cpu"), tile=-4).open()


def test_a_large_picture_does_not_wait_for_those_read_with_it(pictures, model):
    job = RestoreJob(ModelChoice(str(model), "cpu"), "ae", "gaussian-blur:std=1", tile=64, max_in_flight=1)
    worker, read = job.open(), []
    wrapped = worker._read

    def counted(item):
        read.append(item.name)
        return wrapped(item)

    worker._read = counted
    batches = worker._batches([Item(n, f"{n}", str(pictures / "large.png")) for n in range(4)])
    assert len(next(batches).y) == 1 and read == ["0"]
    assert len(list(run_local(job, [Item(0, "a", str(pictures / "large.png"))]))) == 1


@pytest.mark.parametrize(
    "physics",
    [
        GaussianBlur(1.5, 0.05),
        Compose(GaussianBlur(0.7), SuperResolution(2, 0.05)),
        JPEG(40.0),
        RandomInpainting.from_ratio(0.4, (136, 92), torch.Generator().manual_seed(0)),
    ],
    ids=lambda physics: physics.names[0],
)
def test_the_residual_of_a_picture_in_tiles_is_that_of_the_whole(physics):
    x, other = (torch.rand(1, 3, 136, 92, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    problem = Problem(physics(x, torch.Generator().manual_seed(2)), physics)
    tiling = Tiling.cut((136, 92), 64, physics, 4)
    tiled = InTiles(problem, tiling)
    torch.testing.assert_close(tiled.residual(other), problem.residual(other), rtol=0, atol=1e-5)
    torch.testing.assert_close(consistency(other, tiled), consistency(other, problem))
