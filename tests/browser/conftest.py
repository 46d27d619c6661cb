"""The page in a real browser: served by the command itself, seen by Chromium. `make test-browser` runs these tests."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from seen import PATIENCE, watched

collect_ignore_glob: list[str] = []
try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:  # `make test` leaves these out
    collect_ignore_glob = ["test_*.py"]

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the page is served."""
    command = [sys.executable, "-m", "flashdiffusion", "app", "--port", "0", "--max-mb", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the page is not served"
            yield found[0]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    path = next((found for name in CHROMIUMS if (found := shutil.which(name))), None)
    assert path, f"none of {', '.join(CHROMIUMS)} is installed"
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=path, args=SWITCHES)
        yield one
        one.close()


@pytest.fixture
def width() -> int:
    """Pixels across the window."""
    return 1280


@pytest.fixture
def page(browser: "Browser", address: str, width: int) -> "Iterator[Page]":
    """The page, ready."""
    with watched(browser, address, width) as one:
        one.locator("#restore").wait_for()
        yield one
