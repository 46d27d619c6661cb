import json

import pytest
import torch

from flashdiffusion.jobs.records import report, summarise
from flashdiffusion.record import Record


def test_means_over_what_all_images_have():
    records = [Record("a", metrics={"psnr": 20.0, "lpips": 0.1}, nfe=3), Record("b", metrics={"psnr": 30.0}, nfe=5)]
    summary = summarise(records)
    assert summary["psnr"] == 25 and summary["nfe"] == 4
    assert "lpips" not in summary


def test_infinite_values_are_null_and_still_json():
    records = [Record("a", metrics={"psnr": float("inf")}), Record("b", metrics={"psnr": 30.0})]
    result = report(torch.device("cpu"), {"seed": 0}, records)
    again = json.loads(json.dumps(result, allow_nan=False))
    assert again["records"][0]["psnr"] is None
    assert again["mean"]["psnr"] is None


def test_severity_quality_of_a_perfect_and_a_reversed_encoder():
    true = torch.linspace(0.01, 0.1, 11).tolist()
    perfect = summarise([Record(str(i), severity=t, true_severity=t) for i, t in enumerate(true)])["severity_quality"]
    assert perfect["spearman"] == pytest.approx(1) and perfect["median_ratio"] == pytest.approx(1)
    assert perfect["true_spread"] == pytest.approx(0.091 / 0.019, rel=1e-4)
    reverse = summarise([Record(str(i), severity=1 - t, true_severity=t) for i, t in enumerate(true)])
    assert reverse["severity_quality"]["spearman"] == pytest.approx(-1)


def test_no_records_have_a_summary():
    assert summarise([]) == {"images": 0}
