"""The pages say what is there: their code runs, and their commands, names, files and links exist."""

import ast
import re
import shlex
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
import typer

import flashdiffusion
from flashdiffusion import FlashPipeline
from flashdiffusion.cli.app import app
from flashdiffusion.data import load_image, save_image
from flashdiffusion.methods import SOLVERS, parse_method
from flashdiffusion.physics import PHYSICS, TASKS, get_task
from flashdiffusion.schedule import NoiseSchedule
from test_architecture import ORDER

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = typer.main.get_command(app).commands
NOT_OURS = {"--help", "--plugin", "--cpu", "--num_processes"}  # of every command, of the program, of accelerate
# Files that only their owners have; the code around them is not run.
NOT_HERE = (".ckpt", ".pth", "/shared/", "runs/mine")


def _blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


def _code(page: Path) -> list[str]:
    """Python blocks of a page that can run here, on images of the size of a test's."""
    blocks = [block.replace("128", "32") for block in _blocks(page, "python")]
    return [block for block in blocks if not any(name in block for name in NOT_HERE)]


def _commands(page: Path) -> list[list[str]]:
    """Arguments of every `flashdiffusion ...` in the blocks without a language."""
    lines = "\n".join(_blocks(page, "")).replace("\\\n", " ").splitlines()
    found = (re.search(r"(?:^|-m )flashdiffusion (.*)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def test_code_runs(tiny_pipeline, monkeypatch, tmp_path, image_folder):
    monkeypatch.chdir(tmp_path)
    for name in ("face", "dimmed", "noisy", "blurred"):
        save_image(load_image(next(image_folder.iterdir()), 32), f"{name}.png")
    monkeypatch.setattr(FlashPipeline, "from_pretrained", lambda *source: tiny_pipeline)
    whole = NoiseSchedule.grid
    monkeypatch.setattr(NoiseSchedule, "grid", lambda schedule, steps=None: whole(schedule, 2))
    names: dict[str, object] = {}
    for page in (ROOT / "README.md", ROOT / "docs" / "degradations.md"):
        assert _code(page)
        for block in _code(page):
            exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_imports_of_code_exist(page):
    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flashdiffusion"):
                assert not [one.name for one in node.names if not hasattr(import_module(node.module), one.name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_the_options_they_are_shown_with(page):
    for name, *arguments in _commands(page):
        known = {option for one in COMMANDS[name].params for option in (*one.opts, *one.secondary_opts)}
        given = {argument.split("=")[0] for argument in arguments if re.match("--[a-z]", argument)}
        assert given <= known, f"flashdiffusion {name} has no {given - known}"
        for option, check in (("--method", parse_method), ("--task", get_task)):
            if option in arguments and (value := arguments[arguments.index(option) + 1]).islower() and value != "bound":
                check(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_that_it_speaks_of_exist(page):
    known = {option for one in COMMANDS.values() for par in one.params for option in (*par.opts, *par.secondary_opts)}
    assert set(re.findall(r"`(--[a-z][\w-]*)", page.read_text())) <= known | NOT_OURS


def test_every_degradation_task_and_solver_has_its_line():
    listed = set(re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "degradations.md").read_text(), re.MULTILINE))
    assert {name for name, one in PHYSICS.items() if one.forms} | TASKS.keys() <= listed
    assert SOLVERS.keys() <= set(re.findall(r"[\w-]+", (ROOT / "README.md").read_text()))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


# -- docs/architecture.md ---------------------------------------------------------------------------------
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_the_folders_are_drawn_in_the_order_of_their_imports():
    (tree,) = (block for block in _blocks(ARCHITECTURE, "") if block.startswith("src/"))
    drawn = [name.removesuffix(".py").rstrip("/") for name in re.findall(r"^  ([a-z_./]+)", tree, re.MULTILINE)]
    assert drawn == [*ORDER, "assets"]


def test_the_files_it_names_exist():
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", ARCHITECTURE.read_text())
    assert len(named) > 10
    assert [path for path in named if not any((top / path).exists() for top in (ROOT, *ROOT.glob("src/*")))] == []


def test_the_types_it_names_exist():
    rows = re.findall(r"^\| (`[A-Z].*?`) \| `([a-z_.]+)` \| (.*) \|$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert len(rows) > 10
    for types, module, does in rows:
        home = import_module(f"{flashdiffusion.__name__}.{module}")
        for name in re.findall(r"`(\w+)`", types):
            assert hasattr(home, name), f"{name} is not in {module}"
        for owner, member, arguments in re.findall(r"`(\w+)\.(\w+)(?:\((.*?)\))?`", does):
            cls = getattr(home, owner)
            assert hasattr(cls, member) or (is_dataclass(cls) and member in {one.name for one in fields(cls)})
            if arguments:
                given = set(arguments.split(", "))
                assert given <= set(signature(getattr(cls, member)).parameters), f"{owner}.{member}({arguments})"


def test_records_name_no_path_of_the_machine_that_made_them():
    records = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
    assert records
    for record in records:
        assert not re.search(r'"(/|[A-Z]:\\\\|~)', record.read_text()), record
