"""engine.py at tiny size: the engine gives the loop's pictures, and every figure is there."""

import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def test_the_engine_is_compared_with_the_loop(tmp_path, tiny_model, picture_folder):
    from engine import main

    out = tmp_path / "engine.json"
    given = ["--data", str(picture_folder), "--model", str(tiny_model), "--out", str(out), "--device", "cpu"]
    given += ["--precision", "float32", "--eta", "0.3"]
    main(
        [
            *given,
            "--pictures",
            "6",
            "--rounds",
            "1",
            "--capacity",
            "2",
            "--mean",
            "3",
            "--largest",
            "2",
            "--queued",
            "64",
            "128",
        ]
    )
    results = json.loads(out.read_text())
    assert {"command", "date", "environment", "seed"} <= results.keys()
    compare = results["compare"]
    assert compare["difference"]["mean"] < 1e-4, "up to rounding"
    (loop,), (engine,) = compare["one at a time"], compare["engine"]
    assert loop["picture_steps"] == engine["picture_steps"] > 0 and 0 < engine["occupancy"] <= 1
    assert [row["capacity"] for row in results["capacity"]] == [1, 2]
    assert [row["spread"] for row in results["spread"]] == [0.0, 0.5, 0.9]
    assert all(row["engine"]["picture_steps"] == row["fixed batches"]["picture_steps"] for row in results["spread"])
    assert results["queue"][-1]["done"] > results["queue"][0]["done"]
