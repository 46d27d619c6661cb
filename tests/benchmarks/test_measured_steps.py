"""step.py and full_size.py at tiny size: the parts are the step, and the results files say how they were made."""

import json
from pathlib import Path

import pytest
import torch

from flashdiffusion import Settings
from flashdiffusion.solvers import LatentDPS

PARTS = [
    "denoiser forward",
    "decoder forward",
    "physics and loss",
    "decoder backward",
    "denoiser backward",
    "noise and transition",
]
QUICK = ["--device", "cpu", "--matmul", "32", "--repeats", "1"]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def _check(results: dict, batches: list[int]) -> None:
    assert {"options", "environment", "date", "seed"} <= results.keys()
    assert max(results["ceiling"].values()) > 0
    assert [step["batch"] for step in results["steps"]] == batches
    for step in results["steps"]:
        assert list(step["parts"]) == PARTS
        assert sum(part["share"] for part in step["parts"].values()) == pytest.approx(1)
        assert step["sums"]["solver.step"]["gflop"] == pytest.approx(
            sum(part["gflop"] for part in step["parts"].values())
        )


def test_the_parts_make_the_step(tiny_pipeline):
    from measure import problem_of, step_in_parts

    solver, _ = tiny_pipeline.method("latent-dps", "noise", Settings())
    assert isinstance(solver, LatentDPS)
    problem = problem_of(2, 32, torch.device("cpu"), seed=0)
    z, k = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 40])
    noise = torch.stack([torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(row)) for row in range(2)])
    names: list[str] = []
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    moved = step_in_parts(solver, z, k, problem, generators, names.append)
    assert names == PARTS
    torch.testing.assert_close(moved, solver.step(z, k, problem, noise).z)


def test_the_cost_of_a_step_is_measured(tmp_path, tiny_model, capsys):
    from step import main

    out = tmp_path / "step.json"
    main(["--out", str(out), "--model", str(tiny_model), "--batch", "1", "2", *QUICK])
    results = json.loads(out.read_text())
    _check(results, [1, 2])
    one, two = (step["sums"]["solver.step"]["gflop"] for step in results["steps"])
    assert two == pytest.approx(2 * one, rel=0.01)
    assert "| denoiser backward |" in capsys.readouterr().out


def test_the_full_size_networks_run_at_a_sixteenth(tmp_path):
    from full_size import main

    out = tmp_path / "full.json"
    images = ["--scale", "16", "--size", "32", "--images", "5", "--alone", "2", "--max-in-flight", "2"]
    main(["--out", str(out), *images, "--starts", "1:3", *QUICK])
    results = json.loads(out.read_text())
    _check(results, [1])
    engine, alone = results["race"]["engine"], results["race"]["one by one"]
    assert engine["images"] == 5 and alone["images"] == 2 and engine["failed"] == alone["failed"] == {}
    assert engine["steps"] == sum(engine["starts"].values())
    assert alone["starts"] == {name: engine["starts"][name] for name in ("0", "1")}
    assert 0 < engine["occupancy"] <= 1 and alone["occupancy"] == 1


def test_starts_are_drawn_by_the_image_s_noise():
    from full_size import DrawnStart

    noise = torch.randn(500, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    start = DrawnStart(20, 180)
    k = start(noise, None, None, noise).k
    assert 20 <= int(k.min()) < 30 and 170 < int(k.max()) <= 180 and 90 < float(k.double().mean()) < 110
    assert torch.equal(start(noise[7:9], None, None, noise[7:9]).k, k[7:9])


def test_the_full_size_denoiser_is_the_published_one():
    from full_size import PARAMETERS, make_denoiser, parameters

    with torch.device("meta"):
        assert parameters(make_denoiser()) == pytest.approx(PARAMETERS, rel=0.002)
