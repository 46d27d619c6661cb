"""before_after.py: what changed between two folders of results."""

import json
from pathlib import Path


def _write(folder, psnr):
    folder.mkdir()
    records = [{"id": "a", "psnr": psnr, "nfe": 3, "severity": None}]
    (folder / "jpeg-ae-.json").write_text(json.dumps({"records": records}))
    return folder


def test_figures_that_changed_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import before_after

    old, same = _write(tmp_path / "old", 25.0), _write(tmp_path / "same", 25.001)
    assert before_after.differences(old, same, 2e-4) == (1, [])
    other = _write(tmp_path / "other", 25.1)
    assert before_after.differences(old, other, 2e-4) == (1, ["jpeg-ae-.json: a: psnr 25.0 and 25.1"])
