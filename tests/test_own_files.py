"""What a user's own file registers works everywhere by name, and nothing else is changed."""

import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

from flashdiffusion.data.named import DATA
from flashdiffusion.jobs.parse import drawn_by, parse_physics
from flashdiffusion.methods import SOLVERS
from flashdiffusion.metrics.registry import METRICS
from flashdiffusion.physics import PHYSICS, TASKS, concatenate, get_task, is_linear
from flashdiffusion.plugins import LOADED, load_plugins

OWN = '''
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flashdiffusion.data import NamedData, register_data
from flashdiffusion.metrics import Metric, register
from flashdiffusion.physics import BatchedPhysics, Form, Task, per_image, register_physics
from flashdiffusion.solvers import Guided, register_solver, setting


class Dim(BatchedPhysics):
    """Less light."""

    name = "dim"

    def __init__(self, light, noise_std=0.05):
        numbers = per_image("light", light, "numbers from 0 to 1", lambda n: (n >= 0) & (n <= 1), torch.float32)
        super().__init__({"light": numbers}, noise_std)

    @classmethod
    def drawn(cls, darkest, generator, noise_std=0.05):
        return cls(darkest + (1 - darkest) * torch.rand(len(darkest), generator=generator), noise_std)

    def A(self, x):
        self.check_batch(x)
        return self.params["light"].to(x).view(-1, 1, 1, 1) * x

    A_adjoint = A


register_physics(
    Dim,
    forms=[Form(Dim), Form(Dim.drawn, drawn="the light")],
    tasks=[Task("dusk", "light", 0.4, 0.6, Dim, ordering=(0.2, 0.8))],
)
register(Metric("darkness", "dark", higher=False, compare=lambda x, y: (y - x).flatten(1).mean(1)))
register_data(NamedData("scenes", {"test": Path(__file__).with_name("scenes.txt")}, pattern="image-([0-9]+)"))


@register_solver("fading")
@dataclass(frozen=True)
class Fading(Guided):
    fade: float = setting(0.9, "Factor on the latents.")

    terms = ()

    def step(self, z, k, problem, noise):
        return replace(super().step(z, k, problem, noise), z=self.fade * z)
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    (tmp_path / "scenes.txt").write_text("image-07\nimage-03\n")
    yield path
    for table, name in (
        (PHYSICS, "dim"),
        (TASKS, "dusk"),
        (SOLVERS, "fading"),
        (METRICS, "darkness"),
        (DATA, "scenes"),
    ):
        table.pop(name, None)
    LOADED.clear()


def test_keeps_every_promise_of_an_operator(own, monkeypatch):
    load_plugins([own])
    monkeypatch.syspath_prepend(Path(__file__).parent / "contracts")
    suite = import_module("test_physics")

    dim = PHYSICS["dim"].cls([0.1, 0.4, 0.8, 1.0])
    tried = 0
    for name, check in vars(suite).items():
        if (
            name.startswith("test_")
            and "gpu" not in name
            and str(inspect.signature(check)) in {"(physics)", "(linear)"}
        ):
            check(dim)
            tried += 1
    assert tried > 10 and is_linear(dim)


def test_is_written_drawn_and_joined_by_its_name(own):
    load_plugins([own])
    generator = torch.Generator().manual_seed(0)
    physics = parse_physics("dim:light=0.5+gaussian-blur:std=1", (8, 8), generator)
    assert physics.describe() == [{"physics": "dim+gaussian-blur", "light": 0.5, "std": 1.0}] and is_linear(physics)
    assert drawn_by("dim:darkest=0.5") == "the light; give dim:light=NUMBER or a measurement file"
    drawn = get_task("dusk").draw(9, (8, 8), generator, 0.1)
    assert all(0.4 <= row["light"] <= 0.6 for row in drawn.describe()) and len(concatenate([drawn, drawn])) == 18


def test_on_the_command_line(flash, tmp_path, own, image_folder, tiny_model):
    measured, options = tmp_path / "measured", ("--model", tiny_model)
    ended = flash(
        "--plugin", own, "degrade", image_folder, "--physics", "dim:light=0.5", "--out", measured, "--size", 32
    )
    assert ended.code == 0 and ended.err == ""
    restored = ("--method", "fading", "--steps", 2, "--set", "fade=0.5", "--reference", image_folder)
    ended = flash("--plugin", own, "restore", measured, "--out", tmp_path / "out", *options, *restored)
    assert ended.code == 0, ended.err
    (first, *_) = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    assert first["degradation"] == {"physics": "dim", "light": 0.5} and "darkness" in str(first)
    out = tmp_path / "results.json"
    task = ("--data", f"scenes:{image_folder}", "--task", "dusk", "--method", "ae", "--out", out)
    assert flash("--plugin", own, "evaluate", *task, *options).code == 0
    records = json.loads(out.read_text())["records"]
    assert [(row["id"], row["degradation"]["physics"]) for row in records] == [("7", "dim"), ("3", "dim")]


def test_a_file_that_fails_is_named(flash, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name")
    for path, reason in ((broken, "failed: ModuleNotFoundError"), (tmp_path / "absent.py", "no such Python file")):
        ended = flash("--plugin", path, "severity", tmp_path)
        assert ended.code == 2 and f"plugin {path}" in ended.err and reason in ended.err
