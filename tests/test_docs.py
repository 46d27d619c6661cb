"""The pages say what is there: their commands are taken, and their names, options, files and links exist.

`test_docs_run.py` runs them.
"""

import ast
import re
import shlex
import tomllib
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name

import pytest

import flashdiffusion
from flashdiffusion.cli.command import UsageError
from flashdiffusion.methods import SOLVERS, parse_method
from flashdiffusion.physics import PHYSICS, TASKS, get_task
from pages import COMMANDS, DOCS, NAMES, ROOT, arguments_of, blocks, lines_of, without_plugins
from test_architecture import ORDER

NOT_OURS = {"--help", "--plugin", "--cpu", "--num_processes", "--strict"}  # of other programs, or of all commands
PAGE = pytest.mark.parametrize("name", NAMES)


@PAGE
def test_every_block_says_what_it_is(name):
    assert {block.language for block in blocks(NAMES[name])} <= {"", "python", "py", "sh", "text"}
    assert all(block.title for block in blocks(NAMES[name], "py")), "a whole file has a title, and others can be run"


@PAGE
def test_imports_of_code_exist(name):
    for block in blocks(NAMES[name], "python", "py"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flashdiffusion"):
                assert not [one.name for one in node.names if not hasattr(import_module(node.module), one.name)]


@PAGE
def test_commands_are_taken_as_they_are_shown(name):
    for line in lines_of(NAMES[name]):
        if (arguments := arguments_of(line)) is not None and "--help" not in arguments:
            plugins, (command, *rest) = without_plugins(arguments)
            files = {block.title for block in blocks(NAMES[name], "py")}
            assert all(file in files or (ROOT / file).is_file() for file in plugins), line
            try:
                COMMANDS[command].make_context(command, list(rest))
            except UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")
            for option, check in (("--method", parse_method), ("--task", get_task)):
                values = [rest[i + 1] for i, one in enumerate(rest) if one == option]
                for value in () if plugins else values:
                    if value != "bound":  # of `evaluate` alone
                        check(value.partition(":")[0])  # without its settings


def test_lines_of_other_programs_are_taken_as_they_are_shown():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    seen = set()
    for name, page in NAMES.items():
        for line in lines_of(page):
            words = [one for one in shlex.split(line) if not re.match(r"[A-Z_]+=", one)]
            if arguments_of(line) is None and words and (program := words[0].rsplit("/", 1)[-1]):
                seen.add(program)
                match program:
                    case "make":
                        assert words[1] in targets, (name, line)
                    case "python":
                        script = ROOT / "benchmarks" / words[1].rsplit("/", 1)[-1]
                        known = "".join(one.read_text() for one in (script, *script.parent.glob("*.py")))
                        assert all(f'"{one}"' in known for one in words if one.startswith("--")), (name, line)
                    case "pip":
                        assert set(re.findall(r"\[(\w+)\]", line)) <= extras.keys(), (name, line)
                    case "pytest":
                        assert all((ROOT / one).exists() for one in words[1:] if "/" in one), (name, line)
                    case _:
                        assert program in {"curl", "git", "ray"}, f"{name}: how is this checked? {line}"
    assert {"make", "python", "pip"} <= seen


@PAGE
def test_distributed_lines_are_taken_by_accelerate(name):
    from accelerate.commands.launch import launch_command_parser

    for line in lines_of(NAMES[name]):
        if (launch := line.partition("accelerate launch ")[2]) and "..." not in line:
            launch_command_parser().parse_args(shlex.split(launch.replace("FIRST", "localhost")))


@PAGE
def test_options_that_it_speaks_of_exist(name):
    known = {option for one in COMMANDS.values() for par in one.params for option in (*par.opts, *par.secondary_opts)}
    if not name.startswith("benchmarks"):  # scripts have options of their own
        assert set(re.findall(r"`(--[a-z][\w-]*)", NAMES[name].read_text())) <= known | NOT_OURS


def test_every_degradation_task_and_solver_has_its_line():
    listed = set(re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "degradations.md").read_text(), re.MULTILINE))
    assert {name for name, one in PHYSICS.items() if one.forms} | TASKS.keys() <= listed
    assert SOLVERS.keys() <= set(re.findall(r"[\w-]+", (DOCS / "methods.md").read_text()))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@PAGE
def test_links_lead_somewhere(name):
    page = NAMES[name]
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            # Those of the reference are made by mkdocstrings; the strict build follows them.
            assert not anchor or "/api/" in path or anchor in _anchors(target), link


# -- docs/architecture.md ---------------------------------------------------------------------------------
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_the_folders_are_drawn_in_the_order_of_their_imports():
    (tree,) = (block.text for block in blocks(ARCHITECTURE, "") if block.text.startswith("src/"))
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


# -- docs/paper.md ----------------------------------------------------------------------------------------
def test_the_code_that_the_paper_is_mapped_to_exists():
    named = re.findall(r"`((?:[a-z]+\.)+[A-Z]?\w+(?:\.\w+)?)`", (DOCS / "paper.md").read_text())
    named = [one for one in named if not one.endswith((".html", ".json", ".png", ".jpg", "flashdiffusion"))]
    assert len(named) > 30
    for one in named:
        resolve_name(f"flashdiffusion.{one.removeprefix('flashdiffusion.')}")


# -- docs/api/ ----------------------------------------------------------------------------------------------
def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = {name.rsplit(".", 1)[-1] for name in re.findall(r"^::: (\S+)", pages, re.MULTILINE)}
    assert set(flashdiffusion.__all__) - {"__version__"} <= listed
