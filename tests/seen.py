"""What any page is to be, as a browser has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 120_000  # milliseconds, of a busy machine
SERIOUS = {"serious", "critical"}


def serious(page: Any) -> list[str]:
    """What axe finds that keeps somebody out: contrast, labels, names."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in SERIOUS]


def sideways(page: Any) -> int:
    """Pixels of the page beyond the window's width."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@contextmanager
def watched(browser: Any, address: str, width: int) -> Iterator[Any]:
    """A page in a window; afterwards there was no error in its console, and nothing was asked from elsewhere."""
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
    yield one
    context.close()
    assert errors == []
    assert elsewhere == []
