"""The documentation is built strictly, and needs no network to be read."""

import re
import subprocess
import sys

import pytest

from pages import DOCS, ROOT

FETCHED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"?(https?:[^\"\s>]*)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; strict: a page that the nav lacks, or a link or an anchor that leads nowhere, ends the build."""
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    return out


def test_every_page_is_there(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists()
    for notebook in DOCS.glob("notebooks/*.ipynb"):
        text = (site / "notebooks" / notebook.with_suffix(".html").name).read_text()
        assert "Download the notebook" in text and f'src="{notebook.stem}-output' in text
    for card in ("faces-128", "photos"):
        assert (site / "project/src/flashdiffusion/assets" / card / "index.html").exists()


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert FETCHED.findall(page.read_text()) == [], page
    assert not any("@import" in sheet.read_text() and "//" in sheet.read_text() for sheet in DOCS.rglob("*.css"))


def test_the_reference_and_the_commands_are_made_of_the_code(site):
    pipeline = (site / "api" / "pipeline.html").read_text()
    assert "Restore any number of measurements; each image is given as soon as it is done." in pipeline
    commands = (site / "commands.html").read_text()
    assert "Continue an earlier run" in commands and 'id="restore"' in commands


def test_search_knows_the_pages(site):
    index = (site / "search" / "search_index.js").read_text()
    assert "tutorials/solver.html" in index and "notebooks/severity.html" in index
