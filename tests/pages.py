"""The pages of the documentation, read: their blocks of code, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer

from flashdiffusion.cli.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("src/**/*.md")])
NAMES = {str(page.relative_to(ROOT)): page for page in PAGES}
COMMANDS = typer.main.get_command(app).commands
# What stands for a reader's own choice, and one that it could be.
CHOICES = {
    "TASK": "gaussian-blur",
    "METHOD": "flash",
    "GRID": "steps=2,3",
    "NOISE": "0.05",
    "fit_iterations=N,steps=L,trust=R": "fit_iterations=5,steps=8,trust=2",
}
_FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """language: "" for what is typed in a shell. title: the file that the block is, if it is a whole one."""

    language: str
    title: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """List the blocks in these languages, in order; all of them if none is named."""
    found = [Block(*match) for match in _FENCE.findall(page.read_text())]
    return [block for block in found if not languages or block.language in languages]


def python_of(page: Path) -> list[str]:
    """List the blocks of Python that go on from each other."""
    return [block.text for block in blocks(page, "python")]


def typed(text: str) -> list[str]:
    """List the lines that are typed, whole and without comments; none of a block that is a drawing."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith(("src/", " ")) for line in lines):
        return []
    found = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [line for line in found if line]


def lines_of(page: Path) -> list[str]:
    """List all lines that a page tells to type, also those in its text that are whole."""
    inside = [line for block in blocks(page, "", "sh") for line in typed(block.text)]
    text = _FENCE.sub("", page.read_text())
    among = [" ".join(one.split()) for one in re.findall(r"`(flashdiffusion [a-z][^`]*? --[^`]*)`", text)]
    return inside + [line for line in among if "..." not in line]


def arguments_of(line: str) -> list[str] | None:
    """Split a line that calls this library into the arguments of a call; None for another program's line."""
    match = re.search(r"(?:^|/|-m )flashdiffusion (.*)", line)
    if match is None:
        return None
    arguments = shlex.split(re.sub(r"\[[^\]]*\.\.\.\]", "", match[1]))
    for name, choice in CHOICES.items():
        arguments = [one.replace(name, choice) for one in arguments]
    # Cards and figures give the training images once, by this name.
    data = [i for i, one in enumerate(arguments) if one == "TRAIN" and arguments[i - 1] != "--data"]
    return [part for i, one in enumerate(arguments) for part in (["--data", one] if i in data else [one])]


def without_plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Give the files of --plugin, and the rest."""
    files, rest = [], list(arguments)
    while rest[0] == "--plugin":
        files.append(rest[1])
        rest = rest[2:]
    return files, rest
