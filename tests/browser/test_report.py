"""A report as a reader has it: sorted, ordered, compared and looked at closely, with the network away."""

import re

import pytest
from playwright.sync_api import Page, expect

from seen import serious, sideways, watched


@pytest.fixture(scope="module")
def report(tiny_model, image_folder, tmp_path_factory):
    """Of two methods on three images, their pictures kept."""
    from flashdiffusion.cli.app import app

    folder = tmp_path_factory.mktemp("report")
    given = ["--data", image_folder, "--limit", 3, "--model", tiny_model, "--task", "gaussian-blur"]
    methods = ["--method", "ae", "--method", "ccdf(latent-dps):start_step=3"]
    for arguments in (
        ["evaluate", *given, *methods, "--save-images", "--out", folder / "runs"],
        ["report", folder / "runs", "--out", folder / "report.html"],
    ):
        app([str(one) for one in arguments], standalone_mode=False)
    return (folder / "report.html").as_uri()


@pytest.fixture
def read(browser, report, width):
    with watched(browser, report, width) as page:
        yield page


def _filled(page: Page) -> list[str]:
    """Names of the images in their order; all are filled, as for printing, not those near the window alone."""
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    return page.locator("article h3").all_inner_texts()


def _column(page: Page, heading: str) -> list[float]:
    """Values of a column of the first table, from above."""
    headings = page.locator("table").first.locator("thead th").all_inner_texts()
    place = next(n for n, text in enumerate(headings) if heading in text)
    cells = page.locator("table").first.locator(f"tbody tr > :nth-child({place + 1})")
    return [float(value) for value in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]


def test_tables_are_sorted_by_any_heading(read):
    heading = read.locator("table").first.locator("thead th", has_text="PSNR")
    before = sorted(_column(read, "PSNR"))
    heading.locator("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")  # the best first
    assert _column(read, "PSNR") == before[::-1] != before
    heading.locator("button").press("Enter")
    expect(heading).to_have_attribute("aria-sort", "ascending")
    assert _column(read, "PSNR") == before


def test_images_are_ordered_and_methods_compared(read):
    hardest = _filled(read)
    assert len(hardest) == 3
    read.locator("#order").select_option("easiest")
    assert _filled(read) == hardest[::-1]
    told = read.locator("article p").first
    expect(told).to_contain_text(re.compile("2 minus 1: .*(better|worse|equal)"))
    read.locator("#method").select_option("1")
    _filled(read)
    expect(told).not_to_contain_text("minus")  # a method is not compared with itself


def test_all_pictures_follow_the_zoom(read):
    _filled(read)
    rows = read.locator("#rows")
    read.locator("article .frame").first.click()
    expect(rows).to_have_class(re.compile("zoomed"))
    scales = "all => all.map((one) => new DOMMatrix(getComputedStyle(one).transform)).map(({ a, e, f }) => [a, e, f])"
    first, *others = read.locator("article img").evaluate_all(scales)
    assert first[0] == 3 and len(others) > 2
    for other in others:
        assert other == pytest.approx(first, abs=0.1)  # pixels: frames are not of whole ones
    read.locator("article .frame").last.click()
    expect(rows).not_to_have_class(re.compile("zoomed"))


@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_it_at_any_width(read):
    _filled(read)
    assert serious(read) == []
    assert sideways(read) <= 0
