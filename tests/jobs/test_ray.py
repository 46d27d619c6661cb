"""Workers on Ray: every image once, the same as in one process, whatever becomes of a worker."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import counting
import flashdiffusion
from counting import Counting, Stopping
from flashdiffusion import jobs
from flashdiffusion.cli.options import RunOptions
from flashdiffusion.data import save_image
from flashdiffusion.engine.kept import KeptTiles
from flashdiffusion.errors import InputError
from flashdiffusion.jobs import EvaluateJob, Item, ModelChoice, RestoreJob, run_local, run_on_ray
from flashdiffusion.jobs import ray as engine
from local_model import local_pipeline


@pytest.fixture(scope="module")
def cluster():
    """Two workers' worth of this machine, for all tests of the file."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers import the jobs of the tests, and this library from where the tests do.
        folders = [Path(counting.__file__).parent, Path(flashdiffusion.__file__).parents[1]]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        with engine._cluster(None, 2):
            yield


def _items(count):
    return [Item(i, f"image-{i:02d}", f"image-{i:02d}.png") for i in range(count)]


def test_results_come_back_as_they_were(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items, job = _items(9), Counting(tmp_path)
    here = sorted(run_local(job, items), key=lambda done: done.index)
    there = sorted(run_on_ray(job, items, workers=1), key=lambda done: done.index)
    assert here == there and [done.index for done in there] == list(range(9))


def test_the_work_of_a_killed_worker_is_done_by_another(cluster, tmp_path):
    dones = list(run_on_ray(Counting(tmp_path, kill=5), _items(16), workers=2))
    assert (tmp_path / "killed").exists()
    assert sorted(done.index for done in dones) == list(range(16))


def test_what_a_worker_refuses_is_said(cluster, tmp_path):
    with pytest.raises(InputError, match="no such number"):
        list(run_on_ray(Counting(tmp_path, refused="no such number"), _items(2), workers=1))


def test_images_are_the_same_as_in_one_process(cluster, image_folder, tiny_model):
    job = EvaluateJob(
        (str(image_folder),),
        ModelChoice(str(tiny_model), "cpu"),
        "mixture",
        "flash(latent-dps)",
        batch_size=4,
        images=True,
    )
    job = replace(job, settings=job.settings | {"steps": 20})
    here = sorted(run_local(job, _items(6)), key=lambda done: done.index)
    there = sorted(run_on_ray(job, _items(6), workers=2), key=lambda done: done.index)
    for one, two in zip(here, there, strict=True):
        assert one.pngs.keys() == two.pngs.keys() == {"clean", "measured", "estimate", "restored"}
        first, second = ({k: v for k, v in done.record.items() if k not in {"seconds", "gflop"}} for done in (one, two))
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert second[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), key


def test_the_tiles_of_a_picture_stay_on_one_worker(cluster, image_folder, tmp_path):
    local_pipeline().save_pretrained(tmp_path / "model")
    paths = sorted(image_folder.iterdir())[:2]
    items = [Item(n, path.stem, str(path)) for n, path in enumerate(paths)]
    job = RestoreJob(ModelChoice(str(tmp_path / "model"), "cpu"), "ae", "gaussian-blur:std=0.5", tile=32, maps=True)
    here = sorted(run_local(job, items), key=lambda done: done.index)
    there = sorted(run_on_ray(job, items, workers=2), key=lambda done: done.index)
    for one, two in zip(here, there, strict=True):
        assert one.reason is None and two.reason is None and two.pngs == one.pngs
        assert two.record["tiles"] == one.record["tiles"]


def test_a_picture_that_was_stopped_on_ray_goes_on_from_its_tiles(cluster, flash, tmp_path, monkeypatch):
    local_pipeline().save_pretrained(tmp_path / "model")
    save_image(torch.rand(3, 92, 140, generator=torch.Generator().manual_seed(0)), tmp_path / "large.png")
    physics = ("--physics", "gaussian-blur:std=0.5", "--method", "ae", "--tile", 48)
    options = ("restore", tmp_path / "large.png", *physics, "--model", tmp_path / "model", "--device", "cpu")
    assert flash(*options, "--out", tmp_path / "whole").code == 0
    monkeypatch.setattr(jobs, "RestoreJob", Stopping)
    monkeypatch.setattr(KeptTiles, "keep", KeptTiles.keep)  # which it changes in this process too
    ray = ("--out", tmp_path / "out", "--engine", "ray", "--workers", 1)
    ended = flash(*options, *ray)
    assert ended.code == 2 and "stopped" in ended.err
    listed = tmp_path / "out" / "kept.txt"
    assert len(listed.read_text().splitlines()) == 3
    ended = flash(*options, *ray, "--resume")
    assert ended.code == 0, ended.err
    places = listed.read_text().splitlines()
    assert len(places) == len({*places}) == 12  # none was made twice
    assert (tmp_path / "out" / "large.png").read_bytes() == (tmp_path / "whole" / "large.png").read_bytes()
    assert not [*(tmp_path / "out").glob(".*.tiles-*")]


def test_a_run_is_continued_on_ray(cluster, flash, tmp_path, image_folder, tiny_model):
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    for i in range(4):
        (inputs / f"{i}.png").write_bytes((image_folder / f"image-{i:02d}.png").read_bytes())
    (inputs / "2.png").write_text("words")
    options = ("--physics", "gaussian-blur:std=1", "--steps", 4, "--model", tiny_model, "--out", out)
    ray = ("--engine", "ray", "--workers", 2, "--device", "cpu")
    ended = flash("restore", inputs, *options)
    assert ended.code == 1
    assert f"flashdiffusion: failed: {inputs / '2.png'}: not an image that can be read" in ended.err
    results = json.loads((out / "results.json").read_text())
    assert [row["id"] for row in results["records"]] == ["0", "1", "3"]
    assert [row["id"] for row in results["failed"]] == ["2"]
    times = {path.stem: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (inputs / "2.png").write_bytes((image_folder / "image-02.png").read_bytes())
    assert flash("restore", inputs, *options, *ray, "--resume").code == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["id"] for row in results["records"]] == ["0", "1", "2", "3"] and results["failed"] == []
    assert {path.stem: path.stat().st_mtime_ns for path in out.glob("*.png") if path.stem != "2"} == times


# -- without a cluster ------------------------------------------------------------------------------------


def test_without_ray_it_is_said_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"pip install 'flashdiffusion\[ray\]'"):
        run_on_ray(Counting(tmp_path), _items(1))


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(InputError, match="workers is 0; expected at least 1"):
        run_on_ray(Counting(tmp_path), _items(1), workers=0)


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused"),
        engine._cluster("127.0.0.1:1", 1),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "variable", "expected"),
    [
        ({}, "10.0.0.1:6379", True),
        ({"engine": "ray"}, "", True),
        ({"engine": "ray", "address": "local"}, "10.0.0.1:6379", True),
        ({"engine": "ray", "address": "auto"}, "", False),
        ({"engine": "ray"}, "10.0.0.1:6379", False),
    ],
)
def test_workers_of_another_cluster_are_not_taken_to_see_the_folders_here(monkeypatch, options, variable, expected):
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert RunOptions(**options).here == expected


@pytest.mark.parametrize("there", [False, True])
def test_only_a_cluster_of_our_own_is_shut_down_even_after_an_error(monkeypatch, there):
    import ray

    calls = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: there)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("down"))
    with pytest.raises(KeyError), engine._cluster(None, 1):
        raise KeyError
    assert calls == ([] if there else ["local", "down"])


@pytest.mark.parametrize(
    ("nodes", "workers", "items", "expected"),
    [
        ([{"CPU": 8}], None, 100, (8, 1, 0.0)),
        ([{"CPU": 8}], 2, 100, (2, 4, 0.0)),
        ([{"CPU": 8}], None, 3, (3, 2, 0.0)),
        ([{"CPU": 4}, {"CPU": 2}], 2, 100, (2, 2, 0.0)),  # a share of three would find no place on the second
        ([{"CPU": 16, "GPU": 4}], None, 100, (4, 4, 1.0)),
        ([{"CPU": 16, "GPU": 1}], 2, 100, (2, 8, 0.5)),
        ([{"CPU": 2}], 4, 100, (4, 1, 0.0)),
        ([{"CPU": 64}, {"CPU": 8, "GPU": 4}], None, 100, (4, 2, 1.0)),  # the first has no GPU for any worker
        ([{"CPU": 16, "GPU": 2}], 3, 100, (3, 5, 0.5)),  # two thirds of a GPU each would leave no place for the third
    ],
)
def test_every_worker_finds_a_place(nodes, workers, items, expected):
    assert engine._share([{"Resources": node} for node in nodes], workers, items, None, None) == expected
