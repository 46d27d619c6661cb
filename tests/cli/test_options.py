"""What holds for every command: no option twice, any setting by --set, help in parts, few parameters."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import version

import pytest

from flashdiffusion.cli.options import MethodOptions, ModelOptions, PictureModelOptions, declared_settings
from flashdiffusion.methods import all_settings
from flashdiffusion.solvers import LatentDPS
from flashdiffusion.solvers.guided import data_term
from flashdiffusion.solvers.registry import SOLVERS, register_solver, setting

COMMANDS = ("degrade", "restore", "severity", "evaluate", "ordering", "mine", "tune", "train", "convert")


@pytest.mark.parametrize(
    ("given", "fit", "name", "recorded"),
    [
        (None, False, "photos", "embedded:photos"),
        (None, True, "faces-128", "embedded"),
        ("photos", True, "photos", "embedded:photos"),
        ("faces-128", False, "faces-128", "embedded"),
        ("runs/mine", False, "runs/mine", "runs/mine"),
    ],
)
def test_pictures_are_restored_with_the_model_of_photographs(given, fit, name, recorded):
    chosen = PictureModelOptions(given).chosen(fit)
    assert (chosen.name, chosen.about()["model"]) == (name, recorded)
    assert (ModelOptions().name, ModelOptions().about()["model"]) == ("faces-128", "embedded")


def test_version(flash):
    ended = flash("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"flashdiffusion {version('flashdiffusion')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("restore", "a.png", "--out", "o", "--method", "ae", "--method", "psld"), "--method is given 2 times"),
        (("tune", "--data", "d", "--out", "o", "--method=ae", "--method", "psld"), "--method is given 2 times"),
        (("restore", "a.png", "--out", "o", "--jacobian", "--no-jacobian"), "--jacobian is given 2 times"),
        (("severity", "a.png", "--model", "a", "--model", "b"), "--model is given 2 times"),
        (("train", "all", "--data", "d", "--out", "a", "--out", "b"), "--out is given 2 times"),
        (("degrade", "a.png", "--out", "o", "--seed", 1, "--seed", 2, "--seed", 3), "--seed is given 3 times"),
    ],
)
def test_an_option_given_twice_is_refused(flash, arguments, option):
    ended = flash(*arguments)
    assert ended.code == 2 and ended.err == f"flashdiffusion: error: {option}; expected once\n"


def test_set_gives_any_setting(flash, image_folder, tiny_model, tmp_path):
    common = ("evaluate", "--data", image_folder, "--limit", 1, "--model", tiny_model, "--out", tmp_path / "e.json")
    settings = []
    for options in (("--steps", 8, "--guidance", 0.5, "--no-jacobian"), ("--set", "eta=0.5", "--set", "steps=8")):
        assert flash(*common, *options, *(("--set", "jacobian=false") if "--set" in options else ())).code == 0
        settings.append(json.loads((tmp_path / "e.json").read_text())["settings"])
    assert settings[0] == settings[1] and settings[0]["guidance"] == 0.5 and settings[0]["jacobian"] is False


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--set", "etta=4"), "unknown setting 'etta'"),
        (("--set", "eta=much"), "eta=much"),
        (("--set", "eta"), "eta"),
        (("--set", "eta=4", "--eta", 2), "guidance is given twice"),
        (("--set", "eta=4", "--set", "eta=2"), "guidance is given twice"),
        (("--set", "eta=4,2"), "guidance is given 2 times; expected once"),
        (("--guidance", 4, "--eta", 2), "--guidance is given 2 times"),
        (("--set", "guidance=4", "--eta", 2), "guidance is given twice"),
        (("--set", "gamma=4"), "--gamma: not used by method"),
    ],
)
def test_set_refuses_what_it_cannot(flash, image_folder, tmp_path, options, reason):
    for command in (
        ("restore", image_folder, "--physics", "gaussian-blur:std=1"),
        ("evaluate", "--data", image_folder),
    ):
        ended = flash(*command, "--out", tmp_path / "o", *options)
        assert ended.code == 2 and reason in ended.err


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ((), "flash(proximal)"),
        (("--quality", "fast"), "flash(proximal)"),
        (("--guidance", 4), "flash(latent-dps)"),
        (("--set", "eta=4"), "flash(latent-dps)"),
        (("--method", "flash"), "flash(proximal)"),
    ],
)
def test_without_a_method_settings_choose_it(flash, image_folder, tiny_model, tmp_path, options, method):
    common = ("--steps", 3, "--model", tiny_model, "--out", tmp_path / "o")
    ended = flash("restore", image_folder / "image-00.png", "--physics", "gaussian-blur:std=1", *common, *options)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "o" / "results.json").read_text())["method"] == method


def test_help_comes_in_parts(flash):
    out = flash("restore", "--help").out
    parts = [out.index(title) for title in ("Arguments:", "Options:", "The run:", "Settings of the method")]
    guidance = re.search(r"--guidance(?!-)", out)  # and no --guidance-scale, which is the model's
    assert parts == sorted(parts) and parts[1] < out.index("--method") < parts[2] and guidance.start() > parts[3]


@pytest.mark.parametrize("command", ["demo", *COMMANDS])
def test_commands_declare_few_parameters(command):
    """The functions themselves; typer sees the options that their sets stand for."""
    module = import_module(f"flashdiffusion.cli.{command}")
    assert len(inspect.signature(module.command).parameters) <= 10


def test_every_setting_has_an_option_with_its_type_and_help():
    """Read from the source, for a quick --help; a user's own solver is not among them."""
    declared = {name: (kind, text, alias) for name, kind, text, alias in declared_settings()}
    assert declared == {name: (one.type, one.help, one.alias or "") for name, one in all_settings().items()}
    assert set(declared) <= {one.name for one in fields(MethodOptions)}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_torch(command):
    code = f"import sys; sys.argv[1:] = [{command!r}, '--help']; from flashdiffusion.cli import main\n"
    code += "try: main()\nfinally: print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules], file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr == "[]\n" and "Options:" in ended.stdout


@pytest.fixture
def own_solver():
    @register_solver("mine")
    @dataclass(frozen=True)
    class Mine(LatentDPS):
        strength: float = setting(1.0, "Strength.", (1.0, 2.0))

        @property
        def terms(self):
            return data_term(self.strength)

    yield "flash(mine)"
    del SOLVERS["mine"]


def test_settings_of_a_users_solver_go_by_set_in_every_command(flash, own_solver, image_folder, tiny_model, tmp_path):
    data = ("--data", image_folder, "--limit", 1)
    for command, inputs in (
        ("restore", (image_folder / "image-00.png", "--physics", "gaussian-blur:std=1")),
        ("evaluate", data),
        ("tune", (*data, "--grid", "eta=1")),
    ):
        out = tmp_path / (f"{command}.json" if command == "evaluate" else command)
        options = ("--method", own_solver, "--model", tiny_model, "--set", "steps=4", "--out", out)
        assert "unknown setting 'strenth'" in flash(command, *inputs, *options, "--set", "strenth=2").err
        ended = flash(command, *inputs, *options, "--set", "strength=0.25")
        assert ended.code == 0, ended.err
        written = json.loads((out / "results.json" if command == "restore" else out).read_text())
        where = {"restore": "given", "evaluate": "settings"}.get(command)
        assert (written[where] if where else written["best"]["settings"])["strength"] == 0.25


@pytest.mark.parametrize(
    ("method", "name"),
    [("flash", "flash(proximal)"), ("Flash( PSLD )", "flash(psld)"), ("bound", "bound"), (None, "flash(proximal)")],
)
def test_a_method_is_recorded_by_its_full_name(method, name):
    """So that a preset which `tune --method flash --save` writes is found."""
    assert MethodOptions(method=method).name == name
