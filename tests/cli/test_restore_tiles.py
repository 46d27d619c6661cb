"""`restore --tile`: pictures in tiles, what records hold of them, and runs that are continued."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from flashdiffusion.engine import gathering
from flashdiffusion.engine.starting import Starting
from flashdiffusion.engine.tiling import Tiling
from flashdiffusion.errors import InputError
from flashdiffusion.jobs import Item, ModelChoice, RestoreJob, run_local
from flashdiffusion.jobs.tiles import InTiles
from flashdiffusion.metrics.consistency import consistency
from flashdiffusion.physics import JPEG, Compose, GaussianBlur, RandomInpainting, SuperResolution
from flashdiffusion.severity import PatchSeverityEncoder
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
    with Image.open(tmp_path / "maps" / "steps" / "large.png") as picture:
        assert "from 0 (dark blue) to 100 or more (yellow)" in picture.text["Description"]
    for key in ("consistency", "ssim"):
        assert after["large"][key] == pytest.approx(before["large"][key], rel=1e-3)
    ended = flash("restore", pictures, *options, "--out", tiled, "--tile", 48, "--resume")
    assert ended.code == 2 and "tile" in ended.err
    assert flash("restore", pictures, *options, "--out", tiled, "--tile", 64, "--resume").code == 0


@pytest.mark.parametrize("tile", [(), ("--tile", 64)])
def test_severity_says_what_restore_begins_with(flash, tmp_path, pictures, model, tile):
    options = ("--physics", "gaussian-blur:std=1", "--model", model, "--device", "cpu", *tile)
    seen = flash("severity", pictures, *options, "--maps", tmp_path / "seen", "--json")
    assert seen.code == 0, seen.err
    out = ("--out", tmp_path / "out", "--maps", tmp_path / "started", "--max-in-flight", 1)
    assert flash("restore", pictures, *options, *out).code == 0
    restored = _records(tmp_path / "out")
    assert ("tiles" in restored["large"]) == bool(tile)
    records = json.loads(seen.out)["records"]
    assert [one["id"] for one in records] == ["large", "small"]
    for one in records:
        assert one["severity"] == pytest.approx(restored[one["id"]]["severity"], rel=1e-4)
        assert one["start_step"] == restored[one["id"]]["start_step"]
        files = (tmp_path / kind / f"{one['id']}.png" for kind in ("seen", "started"))
        maps = [np.asarray(Image.open(file)).astype(int) for file in files]
        assert maps[0].shape == maps[1].shape and np.abs(maps[0] - maps[1]).max() <= 2


@pytest.mark.parametrize("physics", [(), ("--physics", "super-resolution:factor=2")])
def test_severity_looks_at_no_more_than_a_tile(flash, tmp_path, pictures, model, monkeypatch, physics):
    looked_at, forward = [], PatchSeverityEncoder.forward

    def watched(encoder, y, known=None):
        looked_at.append(tuple(y.shape[2:]))
        return forward(encoder, y, known)

    monkeypatch.setattr(PatchSeverityEncoder, "forward", watched)
    options = (*physics, "--model", model, "--device", "cpu", "--maps", tmp_path / "maps", "--json")
    for tile in (0, 64):
        looked_at.clear()
        ended = flash("severity", pictures / "large.png", *options, "--tile", tile)
        assert ended.code == 0, ended.err
        assert max(max(size) for size in looked_at) == (tile or (280 if physics else 140))
        (record,) = json.loads(ended.out)["records"]
        assert record["severity"] > 0 and record["start_step"] > 0
        with Image.open(tmp_path / "maps" / "large.png") as picture:
            assert picture.size == ((180, 280) if physics else (90, 140))


def test_severity_says_which_tile_of_a_picture_cannot_be_measured(flash, tmp_path, model):
    y = np.full((3, 140, 90), 0.5, np.float32)
    np.save(tmp_path / "good.npy", y)
    y[0, 130, 80] = np.nan
    np.save(tmp_path / "bad.npy", y)
    ended = flash("severity", tmp_path / "bad.npy", tmp_path / "good.npy", "--model", model, "--tile", 64, "--json")
    assert ended.code == 1 and [one["id"] for one in json.loads(ended.out)["records"]] == ["good"]
    assert "NaN or infinite values in the measurement; expected finite numbers (tile in row 3, column 2 of" in ended.err


def test_a_tile_that_is_too_small_fails_the_picture_in_one_line(flash, tmp_path, pictures, model):
    physics = ("--physics", "gaussian-blur:std=4", "--method", "ae")
    ended = flash("restore", pictures, *physics, "--model", model, "--out", tmp_path / "out", "--tile", 32)
    assert ended.code == 1
    assert "large.png: tile is 32; expected at least" in ended.err


def test_a_tile_that_is_none_is_refused(flash, tmp_path, pictures, model):
    ended = flash("restore", pictures, *BLUR, "--model", model, "--out", tmp_path / "out", "--tile", -4)
    assert ended.code == 2 and "tile is -4; expected whole pixels" in ended.err
    ended = flash("severity", pictures, "--model", model, "--tile", -4)
    assert ended.code == 2 and "tile is -4; expected whole pixels" in ended.err
    with pytest.raises(InputError, match="tile is -4"):
        RestoreJob(ModelChoice(str(model), "cpu"), tile=-4).open()


def test_a_large_picture_does_not_wait_for_those_read_with_it(pictures, model):
    job = RestoreJob(ModelChoice(str(model), "cpu"), "ae", "gaussian-blur:std=1", tile=64, max_in_flight=1)
    worker, read = job.open(), []
    wrapped = worker.read

    def counted(item):
        read.append(item.name)
        return wrapped(item)

    worker.read = counted
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


def test_tiles_that_were_done_are_not_made_again(tmp_path, pictures, model, monkeypatch):
    started = []
    whole = Starting._start_rows

    def counted(self, batch, rows, first):
        started.extend(rows)
        return whole(self, batch, rows, first)

    monkeypatch.setattr(Starting, "_start_rows", counted)
    job = RestoreJob(ModelChoice(str(model), "cpu"), "ae", "gaussian-blur:std=1", tile=64, maps=True)
    item = Item(0, "large", str(pictures / "large.png"))
    [alone] = run_local(job, [item])
    tiles, started[:] = len(started), []
    [first] = run_local(replace(job, kept=(str(tmp_path), "a")), [item])
    assert first.pngs == alone.pngs and len(started) == tiles
    [folder] = tmp_path.glob(".large.tiles-*")
    files = sorted(folder.iterdir())
    assert len(files) == tiles
    for file in files[::2]:
        file.unlink()
    started[:] = []
    [second] = run_local(replace(job, kept=(str(tmp_path), "a")), [item])
    assert second.pngs == alone.pngs and len(started) == len(files[::2])
    timeless = [{key: value for key, value in one.record.items() if key != "seconds"} for one in (second, first)]
    assert timeless[0] == timeless[1]
    started[:] = []
    [other] = run_local(replace(job, kept=(str(tmp_path), "another setting")), [item])
    assert other.pngs == alone.pngs and len(started) == tiles
    for content in (b"half a ti", save({"severity_map": torch.ones(2, 2)}, {"figures": "{}"})):
        files[1].write_bytes(content)
        [broken] = run_local(replace(job, kept=(str(tmp_path), "a")), [item])
        assert broken.reason is not None and "is damaged" in broken.reason and str(files[1]) in broken.reason


def test_a_picture_that_was_stopped_goes_on_from_its_tiles(flash, tmp_path, pictures, model, monkeypatch):
    options = ("restore", pictures / "large.png", *BLUR, "--model", model, "--tile", 64, "--out", tmp_path / "out")
    add, seen = gathering.Picture.add, []

    def stopped(self, tile):
        seen.append((tile.place, tile.kept))
        found = add(self, tile)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(gathering.Picture, "add", stopped)
    assert flash(*options).code == 130
    [folder] = (tmp_path / "out").glob(".large.tiles-*")
    kept = {path.stem for path in folder.iterdir()}
    assert len(kept) == 3
    ended = flash(*options, "--resume")
    assert ended.code == 0, ended.err
    assert {"{}-{}".format(*place) for place, done in seen[3:] if done} == kept
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "large.png" in names and not any(".tiles-" in name for name in names)
    whole = flash(*options[:-1], tmp_path / "whole")
    assert whole.code == 0
    assert (tmp_path / "whole" / "large.png").read_bytes() == (tmp_path / "out" / "large.png").read_bytes()
