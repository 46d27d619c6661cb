"""The page holds every figure that the cells give, escapes all they hold, and needs nothing from elsewhere."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashdiffusion import InputError
from flashdiffusion.reports import compare_cells, interval, read_cells, write_page
from flashdiffusion.reports.cells import cell_file, image_file
from flashdiffusion.reports.runs import by_task, labels

VOID = {"meta", "input", "img", "br", "use", "path"}
HOSTILE = "</script><script>alert(1)</script><b onclick='x'>&\"{{ 7919 * 6007 }}"


class Parsed(HTMLParser):
    """A page read strictly: every element is closed where it was opened."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # by the element they are in
        self.feed(page.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        hidden = {"style", "script"}
        return " ".join(" ".join(text for tag, text in self.texts if tag not in hidden).split()).replace("−", "-")

    @property
    def data(self) -> dict:
        return json.loads(next(text for tag, text in self.texts if tag == "script"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _record(i: int, method: int, generator: np.random.Generator) -> dict:
    severity = 0.005 + 0.002 * i
    return {
        "id": f"face-{i}",
        "degradation": {"physics": "gaussian-blur", "std": 0.1 * i},
        "severity": severity,
        "true_severity": severity * generator.uniform(0.8, 1.2),
        "start_step": 20 + (5 * i if method else 0),
        "nfe": 50 if method == 0 else 3 + i % 3,
        "gflop": 500.0 - 400 * method,
        "seconds": 2.5 - method,
        "measurement_psnr": 22.0,
        "psnr": 28 + 0.5 * method + generator.normal(),
        "lpips": 0.1 + 0.01 * generator.normal(),
    }


def _write(folder: Path, task: str, method: str, records: list[dict], **more: object) -> Path:
    path = cell_file(folder, task, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"task": task, "method": method, "seed": 0, **more, "records": records}))
    return path


def _runs(folder: Path, images: int = 6, methods: tuple[str, ...] = ("psld", "flash(proximal)")) -> Path:
    generator = np.random.default_rng(0)
    for number, method in enumerate(methods):
        records = [_record(i, number, generator) for i in range(images)]
        about = {"command": ["flashdiffusion", "evaluate", "--method", method], "settings": {"trust": 4.5}}
        failed = [{"id": "torn", "reason": "damaged image"}] if number else []
        _write(folder, "gaussian-blur", method, records, environment={"torch": "2.99"}, failed=failed, **about)
    missing = cell_file(folder, "gaussian-blur", "dps")
    missing.write_text(json.dumps({"task": "gaussian-blur", "method": "dps", "missing": "needs a pixel model"}))
    return folder


def _file(folder: Path, method: str, id: str, kind: str) -> Path:
    return image_file(cell_file(folder, "gaussian-blur", method), "gaussian-blur", method, id, kind)


def _picture(folder: Path, method: str, id: str, kind: str, seed: int, side: int = 96) -> Path:
    file = _file(folder, method, id, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[list, Path]:
    """Cells without pictures, and their page."""
    folder = tmp_path_factory.mktemp("runs")
    cells = read_cells([_runs(folder)])
    write_page(cells, folder / "report.html")
    return cells, folder / "report.html"


def test_every_figure_is_on_it(written):
    cells, page = written
    parsed = Parsed(page)
    for cell in cells:
        for name, digits in {"psnr": ".2f", "lpips": ".4f", "nfe": ".1f", "gflop": ".0f", "seconds": ".2f"}.items():
            if values := list(cell.values(name).values()):
                low, high = interval(values)
                assert f"{np.mean(values):{digits}} {low:{digits}} to {high:{digits}}" in parsed.text
    assert "SSIM" not in parsed.text  # no run has it
    assert "dps not measured: needs a pixel model" in parsed.text
    assert "6 1 failed" in parsed.text and "torn : damaged image" in parsed.text
    assert "flashdiffusion evaluate --method 'flash(proximal)'" in parsed.text
    for name, value in {"trust": "4.5", "torch": "2.99", "seed": "0"}.items():
        assert f"{name} {value}" in parsed.text
    best = [float(cell["data-value"]) for cell in parsed.all("td") if cell.get("class") == "best"]
    ours, others = cells[1], cells[2]
    assert (ours.method, others.method) == ("flash(proximal)", "psld")
    means = [[np.mean(list(cell.values(name).values())) for cell in (ours, others)] for name in ("psnr", "lpips")]
    assert sorted(best) == pytest.approx([min(means[1]), 1.5, 4, max(means[0]), 100])


def test_comparisons_with_either(written):
    cells, page = written
    text = Parsed(page).text
    for one, other in ((cells[1], cells[2]), (cells[2], cells[1])):
        found = compare_cells(one, other, "psnr")
        assert f"{found.difference:+.2f} {found.low:+.2f} to {found.high:+.2f}" in text
        assert f"better on {found.win_rate:.0%}, p = {found.sign_test:.3f}" in text
        assert found.turned() == compare_cells(other, one, "psnr")


def test_a_trial_is_called_so(tmp_path):
    for images, said in ((29, True), (30, False)):
        cells = read_cells([_runs(tmp_path / str(images), images)])
        write_page(cells, tmp_path / "report.html")
        assert ("a trial, not a result" in Parsed(tmp_path / "report.html").text) == said


def test_it_needs_nothing_from_elsewhere(written):
    _, page = written
    parsed = Parsed(page)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "action"):
            assert re.match(r"#|data:|$", attributes.get(name) or ""), (tag, attributes)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//|@import|url\((?!#)", page.read_text())
    policies = [one["content"] for one in parsed.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies and policies[0].startswith("default-src 'none'")


def test_plots_have_ids_of_their_own(written):
    _, page = written
    parsed = Parsed(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", page.read_text()))
    assert used <= set(ids)
    titles = [text for tag, text in parsed.texts if tag == "figcaption"]
    assert [title.split(" (")[0] for title in titles] == [
        *("LPIPS", "PSNR", "Start step of each image", "NFE of each image", "Severity, predicted and true")
    ]
    assert "#123456" not in page.read_text()  # the text's colour is the page's


def test_the_same_cells_give_the_same_page(written, tmp_path):
    cells, page = written
    write_page(cells, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_what_files_say_is_escaped(tmp_path):
    generator = np.random.default_rng(0)
    id = f"{HOSTILE}\udcff"
    records = [
        {**_record(i, 1, generator), "id": id, "degradation": {"physics": HOSTILE, HOSTILE: HOSTILE}} for i in (0,)
    ]
    failed = [{"id": f"2{HOSTILE}", "reason": HOSTILE}]
    for method in (HOSTILE, f"_$x${HOSTILE}"):
        _write(tmp_path, HOSTILE, method, records, failed=failed, command=HOSTILE, **{HOSTILE: HOSTILE})
        for kind in ("clean", "restored"):
            file = image_file(cell_file(tmp_path, HOSTILE, method), HOSTILE, method, id, kind)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), "red").save(file)
    (tmp_path / "missing.json").write_text(json.dumps({"task": HOSTILE, "method": "dps", "missing": HOSTILE}))
    assert write_page(read_cells([tmp_path]), tmp_path / "report.html").images == 1
    page = Parsed(tmp_path / "report.html")
    assert len(page.all("script")) == 2
    assert not any("onclick" in attributes for _, attributes in page.elements)
    assert page.text.count(HOSTILE) > 10 and str(7919 * 6007) not in page.text.replace(HOSTILE, "")
    (task,) = page.data["tasks"]
    assert task["name"] == HOSTILE and HOSTILE in {run["label"] for run in task["runs"]} and task["rows"][0]["id"] == id
    assert task["rows"][0]["degradation"] == f"{HOSTILE}, {HOSTILE} {HOSTILE}"


def _with_pictures(folder: Path, images: int) -> Path:
    _runs(folder, images)
    for i in range(images):
        for kind in ("clean", "measured"):
            _picture(folder, "any", f"face-{i}", kind, seed=10 * i + (kind == "measured"))
        for number, method in enumerate(("psld", "flash(proximal)")):
            _picture(folder, method, f"face-{i}", "restored", seed=10 * i + 2 + number)
            _picture(folder, method, f"face-{i}", "estimate", seed=10 * i + 4)
    return folder


def test_pictures_stand_side_by_side(tmp_path):
    _with_pictures(tmp_path, 8)
    for seed, kind in enumerate(("clean", "measured", "restored"), 900):
        _picture(tmp_path, "psld", "torn", kind, seed)
    page = write_page(read_cells([tmp_path]), tmp_path / "report.html")
    data = Parsed(tmp_path / "report.html").data
    (task,) = data["tasks"]
    assert page.images == len(task["rows"]) == task["kept"] == 9 and page.left_out == {}
    rows = {row["id"]: row for row in task["rows"]}
    titles = [tile["title"] for tile in rows["face-3"]["tiles"]]
    assert titles == ["truth", "measurement", "estimate", "flash(proximal)", "psld"]
    assert len(data["pictures"]) == 8 * 5 + 3  # the estimate is the same for both: once
    told = dict(rows["face-3"]["tiles"][-1]["told"])
    record = read_cells([tmp_path])[2].records["face-3"]
    assert told["PSNR"] == f"{record['psnr']:.2f}" and told["NFE"] == "50" and told["severity"] == "0.011"
    assert [tile["told"] for tile in rows["torn"]["tiles"] if tile["picture"] is None] == [
        [["failed", "damaged image"]]
    ]
    kind, _, content = data["pictures"][rows["face-3"]["tiles"][0]["picture"]].partition(",")
    assert kind == "data:image/webp;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), float)
    clean = np.asarray(Image.open(_file(tmp_path, "psld", "face-3", "clean")), float)
    assert shown.shape == (96, 96, 3) and np.abs(shown - clean).mean() < 4
    assert sum(map(len, data["pictures"])) < 3000 * len(data["pictures"])


def test_those_that_say_most_are_shown_if_not_all_are(tmp_path):
    cells = read_cells([_with_pictures(tmp_path, 12)])
    page = write_page(cells, tmp_path / "report.html", images=4)
    (task,) = Parsed(tmp_path / "report.html").data["tasks"]
    assert page.images == 4 and task["kept"] == 12
    _, first, other = cells
    gain = {id: first.values("lpips")[id] - value for id, value in other.values("lpips").items()}
    wanted = {"face-0", "face-11", max(gain, key=gain.get), min(gain, key=gain.get)}
    assert wanted <= {row["id"] for row in task["rows"]} and len(wanted) >= 3
    assert write_page(cells, tmp_path / "report.html", images=0).images == 0
    assert Parsed(tmp_path / "report.html").data == {"tasks": [], "pictures": []}


def test_large_pictures_are_reduced_and_small_ones_kept(tmp_path):
    _runs(tmp_path, 1)
    _picture(tmp_path, "psld", "face-0", "restored", seed=0, side=700)
    small = _picture(tmp_path, "psld", "face-0", "clean", seed=0, side=32)
    write_page(read_cells([tmp_path]), tmp_path / "report.html")
    page = Parsed(tmp_path / "report.html")
    shown = [
        Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))).convert("RGB") for one in page.data["pictures"]
    ]
    assert sorted(image.size for image in shown) == [(32, 32), (512, 512)]
    assert "1 of them reduced to 512 pixels" in page.text
    exact = next(image for image in shown if image.size == (32, 32))
    assert np.array_equal(np.asarray(exact), np.asarray(Image.open(small)))


def test_a_picture_that_cannot_be_read_is_left_out(flash, tmp_path):
    _with_pictures(tmp_path, 3)
    torn = _file(tmp_path, "psld", "face-1", "restored")
    torn.write_bytes(torn.read_bytes()[:100])
    ended = flash("report", tmp_path, "--out", tmp_path / "new" / "report.html")
    assert ended.code == 0 and f"{torn}" in ended.err and "left out" in ended.err
    assert "3 runs, tasks: 1, images with pictures: 3" in ended.out
    page = Parsed(tmp_path / "new" / "report.html")
    assert "Pictures that cannot be read" in page.text and str(torn) in page.text
    titles = {row["id"]: [tile["title"] for tile in row["tiles"]] for row in page.data["tasks"][0]["rows"]}
    assert "psld" not in titles["face-1"] and "psld" in titles["face-0"]


def test_runs_of_the_same_method_are_told_apart(tmp_path):
    records = [_record(0, 0, np.random.default_rng(0))]
    for folder, seed, trust in (("a", 1, 4.0), ("b", 2, 4.0), ("c", 2, 3.0)):
        _write(tmp_path / folder, "gaussian-blur", "psld", records, **{"seed": seed, "settings": {"trust": trust}})
    (task,) = by_task(read_cells([tmp_path, tmp_path / "a"]))  # a file that is given twice counts once
    assert [run.label for run in task.runs] == [
        *("psld, seed 1, trust 4.0", "psld, seed 2, trust 4.0", "psld, seed 2, trust 3.0")
    ]
    assert task.runs[0].unlike(task.runs[1]) == ["seed"] and task.runs[1].unlike(task.runs[2]) == []
    write_page(read_cells([tmp_path]), tmp_path / "report.html")
    assert "other measurements: another seed" in Parsed(tmp_path / "report.html").text
    _write(tmp_path / "d", "gaussian-blur", "psld", records, **{"seed": 2, "settings": {"trust": 3.0}})
    found = labels(read_cells([tmp_path / "c", tmp_path / "d"]))
    assert found == ["psld, c/gaussian-blur--psld.json", "psld, d/gaussian-blur--psld.json"]


def test_input_that_cannot_be_used(flash, tmp_path):
    runs, empty = _runs(tmp_path / "runs", 2), tmp_path / "empty"
    for folder in (empty, tmp_path / "folder.html"):
        folder.mkdir()
    for arguments, said in {
        (runs, "--out", tmp_path / "report.txt"): "expected a name that ends in .html",
        (runs, "--out", tmp_path / "folder.html"): "is a folder; expected a file",
        (empty, "--out", tmp_path / "report.html"): "holds no results",
        (tmp_path / "absent", "--out", tmp_path / "report.html"): "does not exist",
        (runs, "--images", -1, "--out", tmp_path / "report.html"): "expected 0 or more",
    }.items():
        ended = flash("report", *arguments)
        assert ended.code == 2 and ended.err.count("\n") == 1 and said in ended.err
    with pytest.raises(InputError, match="no cells"):
        write_page([], tmp_path / "report.html")
    for records in ([{"psnr": 1}], [{"id": "x", "psnr": "high"}], [{"id": 3}], 4, ["x"]):
        _write(tmp_path / "bad", "gaussian-blur", "psld", records)
        with pytest.raises(InputError, match="does not write"):
            read_cells([tmp_path / "bad"])
    assert not list(tmp_path.glob("*.html*/*")) and not (tmp_path / "report.html").exists()
