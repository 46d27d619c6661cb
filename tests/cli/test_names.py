"""Files of any name are worked on; what the console cannot print is escaped."""

import json
import os

from PIL import Image

from flashdiffusion.cli.tables import print_records
from flashdiffusion.record import Record

NAMES = [b"a.png", b"caf\xe9.png", b"n" * 251 + b".png", "\N{SNOWMAN}.png".encode(), b"line\nbreak.png"]


def test_degrade_and_restore_files_of_any_name(flash, tmp_path, tiny_model):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in NAMES:
        Image.new("RGB", (32, 32), (90, 120, 60)).save(inputs / os.fsdecode(name))
    degraded = flash("degrade", inputs, "--physics", "gaussian-blur:std=1", "--size", 32, "--out", tmp_path / "m")
    assert degraded.code == 0, degraded.err
    for source in (inputs, tmp_path / "m"):
        physics = ("--physics", "gaussian-blur:std=1") if source == inputs else ()
        out = tmp_path / f"out-{source.name}"
        ended = flash("restore", source, *physics, "--method", "ae", "--model", tiny_model, "--out", out)
        assert ended.code == 0, ended.err
        results = json.loads((out / "results.json").read_text())
        assert len(results["records"]) == len(NAMES) and len(list(out.glob("*.png"))) == len(NAMES)


def test_a_table_shows_its_figures_beside_long_names(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    records = [Record("n" * 246, severity=0.25, start_step=120, nfe=7, gflop=23.5, seconds=1.5), Record("m", nfe=9)]
    print_records("names", records, as_json=False)
    out = capsys.readouterr().out
    assert out.count("n" * 24) == 10 and "  m  " in out
    for figure in ("0.25", "120", "7", "23.5", "1.5", "9"):
        assert f" {figure} " in out


def test_a_table_cuts_no_figure_however_many_there_are(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    metrics = {"psnr": 27.123, "ssim": 0.80281, "lpips": 0.094731, "consistency": 0.99161}
    more = {"severity": 0.027831, "start_step": 109, "nfe": 5, "gflop": 113.71, "seconds": 3.7151}
    print_records("figures", [Record("10870", measurement_psnr=22.812, metrics=metrics, **more)], False, {})
    out = capsys.readouterr().out
    for figure in ("27.12", "0.8028", "0.09473", "0.9916", "0.02783", "109", "113.7", "3.715", "22.81", "consistency"):
        assert f" {figure} " in out
