"""What holds for every command: no option twice, any setting by --set, help in parts, few parameters."""

import ast
import inspect
import json
from importlib.metadata import version

import pytest

from flashdiffusion.cli import evaluate, restore


def test_version(flash):
    ended = flash("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"flashdiffusion {version('flashdiffusion')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("restore", "a.png", "--out", "o", "--method", "ae", "--method", "psld"), "--method is given 2 times"),
        (("evaluate", "--data", "d", "--out", "o", "--method", "ae", "--method", "ae"), "--method is given 2 times"),
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
    for options in (("--steps", 8, "--eta", 0.5, "--no-jacobian"), ("--set", "eta=0.5", "--set", "steps=8")):
        assert flash(*common, *options, *(("--set", "jacobian=false") if "--set" in options else ())).code == 0
        settings.append(json.loads((tmp_path / "e.json").read_text())["settings"])
    assert settings[0] == settings[1] and settings[0]["eta"] == 0.5 and settings[0]["jacobian"] is False


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--set", "etta=4"), "unknown setting 'etta'"),
        (("--set", "eta=much"), "eta=much"),
        (("--set", "eta"), "eta"),
        (("--set", "eta=4", "--eta", 2), "eta is given twice"),
        (("--set", "eta=4", "--set", "eta=2"), "eta is given twice"),
        (("--set", "eta=4,2"), "eta is given 2 times; expected once"),
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


def test_help_comes_in_parts(flash):
    out = flash("restore", "--help").out
    parts = [out.index(title) for title in ("Arguments:", "Options:", "The run:", "Settings of the method:")]
    assert parts == sorted(parts) and parts[1] < out.index("--method") < parts[2] and out.index("--eta") > parts[3]


def test_commands_declare_few_parameters():
    """The functions themselves; typer sees the options that their sets stand for."""
    for command in (restore, evaluate):
        (function,) = (
            node for node in ast.parse(inspect.getsource(command)).body if getattr(node, "name", "") == "command"
        )
        assert len(function.args.args) <= 10
