"""engine.py at tiny size: the engine gives the loop's images, and every figure is there."""

import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def test_the_engine_is_compared_with_the_loop(tmp_path, tiny_model, image_folder):
    from engine import main

    out = tmp_path / "engine.json"
    given = ["--data", str(image_folder), "--model", str(tiny_model), "--out", str(out), "--device", "cpu"]
    given += ["--precision", "float32", "--guidance", "0.3"]
    given += ["--images", "2", "--rounds", "1", "--max-in-flight", "2", "--mean", "3", "--largest", "2"]
    main([*given, "--queued", "64", "128"])
    results = json.loads(out.read_text())
    assert {"command", "date", "environment", "seed"} <= results.keys()
    compare = results["compare"]
    assert compare["difference"]["mean"] < 1e-4, "up to rounding"
    (loop,), (engine,) = compare["one at a time"], compare["engine"]
    assert loop["image_steps"] == engine["image_steps"] > 0 and 0 < engine["occupancy"] <= 1
    assert [row["max_in_flight"] for row in results["max_in_flight"]] == [1, 2]
    assert [row["spread"] for row in results["spread"]] == [0.0, 0.5, 0.9]
    assert all(row["engine"]["image_steps"] == row["fixed batches"]["image_steps"] for row in results["spread"])
    assert results["queue"][-1]["done"] > results["queue"][0]["done"]
