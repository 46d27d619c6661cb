"""The split of severities into level and image: exact on made-up effects; how images are measured for it."""

import math

import pytest
import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.experiments import mining
from flashdiffusion.experiments.mining import Conditions, Mining, Split, how_many, measure_severities
from flashdiffusion.physics import get_task

LEVELS = torch.tensor([0.25, 1.0, 4.0])
IMAGES = torch.tensor([0.5, 2.0, 1.0, 0.8, 1.25])  # both of geometric mean 1


def _conditions(name="gaussian-blur", values=(0.0, 1.0, 2.0), **options):
    return Conditions(get_task(name), list(values), **options)


def test_made_up_effects_are_found_exactly():
    split = Split.of(0.03 * IMAGES[:, None] * LEVELS)
    assert split.mean == pytest.approx(0.03)
    torch.testing.assert_close(split.images.float(), IMAGES)
    torch.testing.assert_close(split.levels.float(), LEVELS)
    image, level = (float(effects.log().square().mean()) for effects in (IMAGES, LEVELS))
    assert split.shares["image"] == pytest.approx(image / (image + level))
    assert split.shares["level"] == pytest.approx(level / (image + level))
    assert split.shares["rest"] == pytest.approx(0, abs=1e-9)


def test_an_interaction_is_left_and_moves_no_effect():
    rest = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    split = Split.of(IMAGES[:, None] * LEVELS * rest.exp())  # its rows and columns sum to 0
    torch.testing.assert_close(split.images.float(), IMAGES)
    torch.testing.assert_close(split.levels.float(), LEVELS)
    parts = [float(one.square().sum()) for one in (IMAGES.log() * 3**0.5, LEVELS.log() * 5**0.5, rest)]
    assert [split.shares[name] for name in ("image", "level", "rest")] == pytest.approx([p / sum(parts) for p in parts])
    assert sum(split.shares.values()) == pytest.approx(1)


def test_where_nothing_varies_there_are_no_shares():
    split = Split.of(torch.full((3, 2), 0.5))
    assert split.images.tolist() == pytest.approx([1] * 3) and all(math.isnan(s) for s in split.shares.values())


def _row(name, severities, true, total):
    return {"id": name, "severities": severities, "true_severities": true, "total_severity": total}


ROWS = [
    _row("a", [0.1, 0.2], [0.9, 0.9], 0.3),
    _row("b", [0.4, 0.8], [0.1, 0.1], 0.1),
    _row("c", [0.1, 0.2], [0.3, 0.3], 0.2),
]


def test_images_are_ranked_the_hardest_first_and_equals_in_their_order():
    found = Mining(ROWS, [5, 6, 9])
    assert [found.order(by) for by in mining.RANKS] == [[1, 0, 2], [0, 2, 1], [0, 2, 1]]
    table = found.table(found.order("image"), _conditions(values=(0.0, 1.5)))
    assert [(row["rank"], row["id"]) for row in table] == [(1, "b"), (2, "a"), (3, "c")]
    first = table[0]
    assert (first["severity_std_0"], first["severity_std_1.5"]) == pytest.approx((0.4, 0.8))
    assert first["image_effect"] == pytest.approx(4 ** (2 / 3)) and first["mean_severity"] == pytest.approx(0.32**0.5)
    for row in table:
        total = found.predicted.mean * row["image_effect"] * row["degradation_effect"]
        assert row["total_severity"] == pytest.approx(total, rel=1e-5)


def test_the_summary_compares_with_the_truth():
    conditions = _conditions(values=(0.0, 1.5))
    summary = Mining(ROWS, [0, 1, 2]).summary(conditions)
    assert summary["images"] == 3 and [level["std"] for level in summary["levels"]] == [0, 1.5]
    assert summary["spearman"] == pytest.approx(-math.sqrt(3) / 2, rel=1e-4)  # ranks 1.5, 3, 1.5 and 3, 1, 2
    assert summary["true"]["shares"] == {"level": 0, "image": 1, "rest": 0}
    alone = Mining(ROWS[:1], [0]).summary(conditions)
    assert "spearman" not in alone and alone["shares"]["image"] == 0 and alone["shares"]["level"] == 1


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("25", 25), ("10%", 3), ("100 %", 25), ("0.1%", 1), ("20%", 5)])
def test_how_many_are_kept(text, count):
    assert how_many(text, 25) == count


@pytest.mark.parametrize("text", ["0", "26", "-1", "0%", "200%", "-5%", "nan%", "all", "2.5", "", "%"])
def test_how_many_cannot_be_kept(text):
    with pytest.raises(InputError, match=r"keep-hardest is .*; expected a count from 1 to 25.* or a share above 0%"):
        how_many(text, 25)


@pytest.mark.parametrize("task", ["random-inpainting", "nonlinear-blur"])
def test_all_images_are_measured_by_one_operator_with_the_same_noise(task):
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    conditions = _conditions(task, (0.3, 0.6))
    for level in (0, 1):
        y = conditions.at(level, x).y
        assert torch.equal(y[0], y[1]) and torch.equal(y[0], y[2])
    drawn = conditions.drawn(x, ["a", "b", "a"]).y
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_noise_is_varied_for_a_task_without_a_level():
    x = torch.full((2, 3, 32, 32), 0.5)
    conditions = _conditions("denoising", (0.0, 0.2), over="noise")
    assert conditions.varied == "noise_std"
    assert torch.equal(conditions.at(0, x).y, x)
    noisy = conditions.at(1, x).y
    assert float((noisy - x).std()) == pytest.approx(0.2, rel=0.05) and torch.equal(noisy[0], noisy[1])


def test_severities_do_not_depend_on_the_batch(tiny_pipeline, image_folder, monkeypatch):
    data = ImageDataset([image_folder], 32)
    together = list(measure_severities(tiny_pipeline, data, _conditions(), [7, 2, 4]))
    monkeypatch.setattr(mining, "BATCH", 1)
    alone = list(measure_severities(tiny_pipeline, data, _conditions(), [7, 2, 4]))
    assert [one.index for one in together] == [one.index for one in alone] == [7, 2, 4]
    for one, other in zip(together, alone, strict=True):
        assert one.severities == pytest.approx(other.severities, rel=1e-4) and len(one.severities) == 3
        assert one.true_severities == pytest.approx(other.true_severities, rel=1e-4)
        assert one.total_severity == pytest.approx(other.total_severity, rel=1e-4)
        assert 0 <= one.degradation["std"] <= 3


def test_severities_are_those_of_the_encoder_and_of_its_errors(tiny_pipeline, image_folder):
    data, conditions = ImageDataset([image_folder], 32), _conditions()
    clean = data.batch([3])
    for blind in (False, True):
        (one,) = measure_severities(tiny_pipeline, data, conditions, [3], blind)
        for level in range(3):
            measured = conditions.at(level, clean)
            known = () if blind else (measured.physics,)
            severity = tiny_pipeline.severity(measured.y, *known)
            assert one.severities[level] == pytest.approx(float(severity.var), rel=1e-4)
            error = (severity.z_hat - tiny_pipeline.prior.encode(clean)).flatten()
            assert one.true_severities[level] == pytest.approx(float(error.var()), rel=1e-4)


def test_a_severity_that_is_no_number_fails_its_image_alone(tiny_pipeline, image_folder, monkeypatch):
    honest = mining.severity_of

    def broken(*given):
        severity = honest(*given)
        severity.var[1] = math.nan
        return severity

    monkeypatch.setattr(mining, "severity_of", broken)
    first, second = measure_severities(tiny_pipeline, ImageDataset([image_folder], 32), _conditions(), [4, 5])
    assert first.failed is None and "expected finite numbers above 0" in second.failed


def test_a_model_without_a_severity_encoder_cannot_rank(tiny_pipeline, image_folder):
    bare = FlashPipeline(tiny_pipeline.prior)
    with pytest.raises(InputError, match="no severity encoder"):
        list(measure_severities(bare, ImageDataset([image_folder], 32), _conditions(), [0]))
