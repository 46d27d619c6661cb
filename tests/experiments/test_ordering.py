"""Ordering over levels and over noise: what is varied, and what is not."""

import pytest
import torch

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.experiments.ordering import measure_ordering, ordering_values
from flashdiffusion.physics import get_task
from flashdiffusion.severity import Severity


class _SpreadOfDifferences:
    """Stands in for a pipeline: severity is the variance of neighbours' differences, which noise raises."""

    def __init__(self):
        self.seen = []

    def severity(self, y, physics=None):
        y = y if physics is None else physics.image(y)
        self.seen.append(y)  # all images, level by level
        return Severity(y, y.diff(dim=-1).flatten(1).var(dim=1))


def test_noise_is_varied_over_one_operator(image_folder):
    pipeline = _SpreadOfDifferences()
    data = ImageDataset([image_folder], 32, 3)
    values = ordering_values(get_task("random-inpainting"), 5, "noise", high=0.4)
    assert values == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    rows = list(measure_ordering(pipeline, data, get_task("random-inpainting"), 0.05, values, over="noise"))
    assert [row.accuracy for row in rows] == [1.0] * 3
    for image in range(3):
        first, *others = (level[image] for level in pipeline.seen)
        dropped = first == 0  # what is lost reads 0: the same pixels at every level
        for y, std in zip(others, values[1:], strict=True):
            assert float((y - first)[~dropped].std()) == pytest.approx(std, rel=0.15)


def test_levels_are_varied_at_one_noise(image_folder):
    pipeline = _SpreadOfDifferences()
    data = ImageDataset([image_folder], 32, 2)
    task = get_task("gaussian-blur")
    values = ordering_values(task, 4)
    assert values == pytest.approx([0, 1, 2, 3])
    rows = list(measure_ordering(pipeline, data, task, 0.0, values))
    assert [row.accuracy for row in rows] == [0.0] * 2  # blur lowers that spread
    assert torch.equal(pipeline.seen[0], data.batch(range(2)))


def test_what_has_no_levels_is_refused():
    with pytest.raises(InputError, match="mixture has no level"):
        ordering_values(get_task("mixture"), 5)
    assert len(ordering_values(get_task("mixture"), 5, "noise")) == 5
    with pytest.raises(InputError, match=r"denoising has no level of its own; .*--over noise"):
        ordering_values(get_task("denoising"), 5)
    with pytest.raises(InputError, match=r"phase-retrieval has one level only, oversampling 2, .*with --over noise"):
        ordering_values(get_task("phase-retrieval"), 5)
    assert len(ordering_values(get_task("phase-retrieval"), 5, "noise")) == 5
    with pytest.raises(InputError, match="expected a rising range"):
        ordering_values(get_task("gaussian-blur"), 5, low=3.0)
    with pytest.raises(InputError, match="did you mean noise"):
        ordering_values(get_task("gaussian-blur"), 5, "noize")


def test_a_task_with_levels_of_its_own_is_measured_at_exactly_these():
    task = get_task("super-resolution")
    assert ordering_values(task, 10) == [2, 4, 8] == ordering_values(task)
    assert ordering_values(task, 2, low=4) == [4, 8]
    for name in ("low", "high"):
        with pytest.raises(
            InputError, match=f"{name} is 3; expected one of the levels of task super-resolution: 2, 4, 8"
        ):
            ordering_values(task, 2, **{name: 3.0})


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("gaussian-blur", {"low": -1.0}, r"low is -1, a level \(std\) that task gaussian-blur refuses: blur std is"),
        (
            "jpeg",
            {"high": 150.0},
            r"high is 150, a level \(compression\) that task jpeg refuses: jpeg quality is \[-50",
        ),
        ("random-inpainting", {"high": 1.5}, "high is 1.5, a level"),
        ("gaussian-blur", {"noise_std": -0.5}, "noise std is -0.5; expected a noise standard deviation"),
        ("gaussian-blur", {"noise_std": float("nan")}, "noise std is nan; expected"),
        ("gaussian-blur", {"over": "noise", "low": -0.1}, "low is -0.1; expected a noise standard deviation"),
        ("mixture", {"over": "noise", "high": float("inf")}, "high is inf; expected a noise standard deviation"),
    ],
)
def test_levels_and_noise_that_cannot_be_are_named_as_given(task, options, message):
    with pytest.raises(InputError, match=message):
        ordering_values(get_task(task), 5, **options)
