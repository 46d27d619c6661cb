"""The notebooks run from top to bottom at small size, and what is committed of them is whole."""

import os

import matplotlib
import nbformat
import pytest

from pages import DOCS
from shortened import shorten

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# In place of what the cell tagged `parameters` sets.
SMALL = {
    "severity": {"BLURS": [0.5, 2.0], "SIZE": 32, "NOISE_STEPS": 2},
    "operator": {"SIZE": 32, "STRENGTHS": [0.1, 0.3]},
    "data": {"MINUTES": 1, "STEPS": 1, "SIDE": 141},
}
MOST_BYTES = 400_000  # of a notebook with its pictures
NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@NOTEBOOK
@pytest.mark.filterwarnings("ignore")
def test_runs(path, monkeypatch, tiny_model):
    """Cells share names, as in a kernel. The model is an untrained one."""
    from flashdiffusion import model

    monkeypatch.setattr(model, "_embedded", lambda source: tiny_model if model.embedded_name(source) else None)
    shorten(monkeypatch)
    monkeypatch.setattr("matplotlib_inline.backend_inline.set_matplotlib_formats", lambda *formats, **options: None)
    monkeypatch.setenv("MPLBACKEND", "agg")
    matplotlib.use("agg", force=True)
    names: dict[str, object] = {}
    replaced = set()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.name}: {cell.id}", "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                assert SMALL[path.stem].keys() <= names.keys(), "a parameter of another name"
                names |= SMALL[path.stem]
                replaced |= SMALL[path.stem].keys()
    assert replaced


@NOTEBOOK
def test_is_committed_with_its_outputs(path):
    """As `make notebooks` leaves it: run in order, without errors, progress, or paths of a machine."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    assert not any(os.sep in output.get("text", "") for output in outputs)
    assert path.stat().st_size < MOST_BYTES


def test_each_has_its_small_size():
    assert {path.stem for path in NOTEBOOKS} == SMALL.keys()
