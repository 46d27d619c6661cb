"""What a visitor does, seen from the browser."""

import io
import re
import time
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from seen import serious, sideways

ASSETS = Path(str(files("flashdiffusion") / "assets"))
PATIENCE = 120.0  # seconds, of a busy machine


def _restore(page: Page, ends: str = "Done in") -> None:
    page.locator("#restore").click()
    expect(page.locator("#status")).to_contain_text(re.compile(ends))


def _until_shown(canvas: Locator) -> None:
    """Wait for a picture in a canvas, which is empty before: it has more colours than a frame."""
    end = time.monotonic() + PATIENCE
    while Image.open(io.BytesIO(canvas.screenshot())).convert("RGB").getcolors(1000) is not None:
        assert time.monotonic() < end, "no picture is shown"


def _take(page: Page, button: str) -> bytes:
    with page.expect_download() as download:
        page.locator(button).click()
    return Path(download.value.path()).read_bytes()


def test_the_portrait_is_restored_compared_and_downloaded(page):
    assert serious(page) == []
    _restore(page)
    expect(page.locator("#severity")).to_contain_text("predicted severity")
    expect(page.locator("#figures")).to_contain_text("PSNR")
    expect(page.locator("#map img")).to_be_visible()
    assert serious(page) == []

    line = page.locator("#slider [data-testid=slider]")
    image = page.locator("#slider img").first.bounding_box()
    before = line.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, image["y"] + image["height"] / 2)
    page.mouse.down()
    page.mouse.move(image["x"] + 0.8 * image["width"], image["y"] + image["height"] / 2, steps=5)
    page.mouse.up()
    assert line.bounding_box()["x"] > before["x"] + 0.1 * image["width"]

    result = _take(page, "#download")
    assert Image.open(io.BytesIO(result)).size == (128, 128)
    with zipfile.ZipFile(io.BytesIO(_take(page, "#bundle"))) as bundle:
        assert bundle.read("page/restored.png") == result
        first, *_ = bundle.read("command.sh").decode().splitlines()[2:]
    assert first in page.locator("#command").inner_text().replace("\n", " ")


def test_a_picture_is_uploaded_damaged_and_restored(page, tmp_path):
    own = tmp_path / "mine.jpg"
    with Image.open(ASSETS / "photograph.jpg") as image:
        image.crop((250, 200, 346, 272)).save(own)
    page.get_by_label("Any photograph").check()
    page.locator("#picture").get_by_label("Remove Image").click()
    page.locator("#picture input[type=file]").first.set_input_files(own)
    expect(page.locator("#status")).to_contain_text("mine.jpg is there")
    page.locator("#damage input").click()
    page.get_by_role("option", name="JPEG compression").click()
    expect(page.locator("#strength")).to_contain_text("JPEG quality")
    _restore(page)
    assert Image.open(io.BytesIO(_take(page, "#download"))).size == (96, 72)


def test_missing_parts_are_drawn(page):
    page.locator("#damage input").click()
    page.get_by_role("option", name="Missing parts").click()
    expect(page.locator("#drawing")).to_be_visible()
    expect(page.locator("#strength")).to_be_hidden()
    _restore(page, "nothing is drawn")
    canvas = page.locator("#drawing canvas").first
    canvas.scroll_into_view_if_needed()
    _until_shown(canvas)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 10, steps=5)
    page.mouse.up()
    page.locator("#more button").first.click()
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="No steps").click()
    _restore(page)
    expect(page.locator("#command")).to_contain_text("mask=mask.png")


def test_a_wrong_file_is_refused_in_words(page, tmp_path):
    for name, data, says in (
        ("text.png", b"this is no picture", "text.png cannot be read as a picture"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "drawing.svg cannot be read as a picture"),
    ):
        (tmp_path / name).write_bytes(data)
        page.locator("#picture").get_by_label("Remove Image").click()
        page.locator("#picture input[type=file]").first.set_input_files(tmp_path / name)
        expect(page.get_by_role("alert").filter(has_text=says)).to_be_visible()
        page.locator("#portrait").click()
        expect(page.locator("#status")).to_contain_text("portrait.png is there")


def test_a_run_is_stopped_and_another_follows(page):
    page.locator("#more button").first.click()
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="Proximal, from noise").click()
    page.get_by_label("best").check()
    page.locator("#restore").click()
    expect(page.locator("#status")).to_contain_text(re.compile(r"step \d+ of 36"))
    page.locator("#stop").click()
    expect(page.locator("#status")).to_contain_text("Stopped")
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="No diffusion").click()
    _restore(page)


@pytest.mark.parametrize("width", [375])
def test_it_fits_a_phone(page, width):
    assert sideways(page) <= 0
    _restore(page)
    assert sideways(page) <= 0
    expect(page.locator("#status")).to_be_in_viewport()
