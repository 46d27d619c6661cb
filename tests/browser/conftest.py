"""The page in a real browser: served by the command itself, seen by Chromium. `make test-browser` runs these tests."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
PATIENCE = 120_000  # milliseconds, of a busy machine


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
def page(browser: "Browser", address: str, width: int, tmp_path: Path) -> "Iterator[Page]":
    """The page, ready; afterwards there was no error in its console, and it asked this machine alone."""
    context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    one = context.new_page()
    errors: list[str] = []
    one.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: errors.append(str(error)))
    elsewhere: list[str] = []
    one.on(
        "request",
        lambda request: (
            elsewhere.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None
        ),
    )
    one.goto(address)
    one.locator("#restore").wait_for()
    yield one
    context.close()
    assert errors == []
    assert elsewhere == []
