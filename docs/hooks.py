"""What MkDocs does not do by itself: notebooks, the commands' help, and pages from elsewhere in the repository.

A link that leads out of docs/ works in the repository. Here its file is taken into the site, as project/PATH, and so
on from there.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PROJECT = "project/"
LINK = re.compile(r"(?<=\]\()(?!https?:)([^)\s#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and what pages link to outside docs/."""
    for file in [one for one in files if one.src_uri.endswith(".ipynb")]:
        _add_notebook(files, file, config)
    files.append(File.generated(config, "commands.md", content=_commands()))
    # Those that only the nav names, and those that pages lead to; each may lead to more.
    waiting = [uri.removeprefix(PROJECT) for uri in _named(config.nav) if uri.startswith(PROJECT)]
    for file in files.documentation_pages():
        waiting += _outside(_origin(file), file.content_string)
    while waiting:
        path = waiting.pop()
        if (uri := PROJECT + path) not in files.src_uris:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting += _outside(ROOT / path, (ROOT / path).read_text())
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where their files are in the site."""
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        uri = _uri(_origin(page.file), match[1])
        # A notebook's own page offers the notebook itself.
        if uri.endswith(".ipynb") and _page_of(uri) != page.file.src_uri:
            uri = _page_of(uri)
        return posixpath.relpath(uri, here or ".")

    return LINK.sub(moved, markdown)


def _origin(file: File) -> Path:
    """Where a page lies in the repository."""
    uri = file.src_uri
    return ROOT / uri.removeprefix(PROJECT) if uri.startswith(PROJECT) else DOCS / uri


def _uri(origin: Path, link: str) -> str:
    """Where what a page links to lies in the site."""
    target = Path(os.path.normpath(origin.parent / link))
    inside = target.is_relative_to(DOCS)
    return target.relative_to(DOCS).as_posix() if inside else PROJECT + target.relative_to(ROOT).as_posix()


def _outside(origin: Path, markdown: str) -> list[str]:
    """List the files outside docs/ that a page links to."""
    uris = (_uri(origin, link) for link in LINK.findall(markdown))
    return [uri.removeprefix(PROJECT) for uri in uris if uri.startswith(PROJECT)]


def _page_of(notebook: str) -> str:
    return notebook.removesuffix(".ipynb") + ".md"


def _named(nav: Any) -> Iterator[str]:
    """List the pages of a nav."""
    if isinstance(nav, str):
        yield nav
    else:
        for one in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(one)


def _add_notebook(files: Files, file: File, config: MkDocsConfig) -> None:
    """Add a notebook's page, and the pictures that its outputs are."""
    from nbconvert import MarkdownExporter

    body, resources = MarkdownExporter().from_filename(file.abs_src_path)
    folder = posixpath.dirname(file.src_uri)
    name = Path(file.src_uri).stem
    title, _, rest = body.lstrip().partition("\n")
    body = f"{title}\n\n[Download the notebook]({Path(file.src_uri).name})\n\n{rest}"
    for output, content in resources["outputs"].items():
        body = body.replace(f"({output})", f"({name}-{output})")
        files.append(File.generated(config, f"{folder}/{name}-{output}", content=content))
    files.append(File.generated(config, _page_of(file.src_uri), content=body))


def _commands() -> str:
    """Write the help of every command."""
    import typer
    from typer.testing import CliRunner

    from flashdiffusion.cli.app import app

    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
    parts = [
        "# Commands",
        "As each says by `--help`. Exit codes: 0, 1 if some inputs failed, 2 if nothing could be done.",
    ]
    for name in typer.main.get_command(app).commands:
        shown = runner.invoke(app, [name, "--help"], prog_name="flashdiffusion").output.strip()
        parts.append(f"## {name}\n```text\n{shown}\n```")
    return "\n\n".join(parts) + "\n"
