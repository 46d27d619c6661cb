import weakref
from dataclasses import replace

import pytest
import torch
from PIL import Image

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.measuring import evaluate
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import psnr
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.severity import true_severity

FEW = Settings(steps=20)


@pytest.mark.parametrize(("task", "kind"), [("mixture", "nonlinear-blur"), ("jpeg", "jpeg")])
@pytest.mark.parametrize("seed", range(3))
def test_psld_on_what_may_be_nonlinear_is_refused_whatever_is_drawn(tiny_pipeline, image_folder, task, kind, seed):
    data = ImageDataset([image_folder], 32, 1)
    with pytest.raises(InputError, match=f"psld needs linear degradations, and task {task} has {kind}"):
        next(evaluate(tiny_pipeline, data, get_task(task), "flash(psld)", seed=seed))


def test_psld_serves_linear_tasks(tiny_pipeline, image_folder):
    data = ImageDataset([image_folder], 32, 1)
    for task in ("gaussian-blur", "random-inpainting", "motion-blur"):
        (one,) = evaluate(tiny_pipeline, data, get_task(task), "psld", settings=Settings(steps=3))
        assert one.record.nfe == 3


def test_images_are_measured_restored_and_compared_by_their_id(tiny_pipeline, image_folder):
    data, task = ImageDataset([image_folder], 32, 5), get_task("mixture")
    clean = data.batch(range(5))
    measured = measure(clean, data.ids, task, 0.05, 0)
    expected = tiny_pipeline(measured.y, measured.physics, ids=data.ids, solver="latent-dps", settings=FEW)
    looks = measured.physics.image(measured.y)
    told = tiny_pipeline.severity(measured.y, measured.physics)
    z_hat, z0 = told.z_hat, tiny_pipeline.prior.encode(clean)
    severities = true_severity(z_hat, z0)
    for batch_size, max_in_flight in ((2, 3), (5, None)):
        options = {"settings": FEW, "batch_size": batch_size, "max_in_flight": max_in_flight}
        found = {one.index: one for one in evaluate(tiny_pipeline, data, task, "flash(latent-dps)", **options)}
        assert sorted(found) == [0, 1, 2, 3, 4]
        for i, one in found.items():
            assert one.id == data.ids[i] and one.record.nfe == expected.nfe[i]
            assert torch.equal(one.clean, clean[i]) and torch.equal(one.measured, looks[i])
            torch.testing.assert_close(one.restored, expected.images[i], atol=1e-4, rtol=0)
            assert one.record.metrics["psnr"] == pytest.approx(float(psnr(expected.images[[i]], clean[[i]])), abs=1e-3)
            assert one.record.true_severity == pytest.approx(float(severities[i]), rel=1e-4)
            assert one.record.degradation == measured.physics.describe()[i]


def test_images_compared_by_threads_are_the_same(tiny_pipeline, image_folder, monkeypatch):
    data, task = ImageDataset([image_folder], 32), get_task("mixture")
    alone = {one.index: one.record for one in evaluate(tiny_pipeline, data, task, "flash", settings=FEW)}
    monkeypatch.setitem(evaluate.__globals__, "finishing_threads", lambda device: 3)
    beside = {one.index: one.record for one in evaluate(tiny_pipeline, data, task, "flash", settings=FEW)}
    assert {i: replace(record, seconds=0) for i, record in beside.items()} == {
        i: replace(record, seconds=0) for i, record in alone.items()
    }


def test_only_the_rows_asked_for_are_done(tiny_pipeline, image_folder):
    data = ImageDataset([image_folder], 32)
    for method in ("ae", "bound"):
        found = evaluate(tiny_pipeline, data, get_task("jpeg"), method, rows=iter([7, 2, 9]), batch_size=2)
        assert {one.index: one.id for one in found} == {row: data.ids[row] for row in (7, 2, 9)}


@pytest.mark.parametrize("method", ["flash", "bound"])
def test_images_that_cannot_be_read_are_given_with_the_reason(tiny_pipeline, image_folder, tmp_path, method):
    (tmp_path / "b.png").write_text("words")
    with Image.open(image_folder / "image-00.png") as image:
        image.save(tmp_path / "a.png")
    data = ImageDataset([tmp_path], 32)
    settings = {"settings": FEW, "batch_size": 1}
    found = {one.id: one for one in evaluate(tiny_pipeline, data, get_task("jpeg"), method, **settings)}
    assert found["a.png"].failed is None and found["b.png"].failed.startswith("b.png: not an image that can be read")
    assert found["b.png"].record is None and found["b.png"].clean is None


def test_an_image_that_diverges_is_a_failure_and_no_record(tiny_pipeline, image_folder, monkeypatch):
    original = FlashPipeline.stream

    def stream(pipeline, batches, **options):
        for one in original(pipeline, batches, **options):
            yield replace(one, image=None, failed="it diverged") if one.index == 1 else one

    monkeypatch.setattr(FlashPipeline, "stream", stream)
    data = ImageDataset([image_folder], 32, 3)
    found = {one.index: one for one in evaluate(tiny_pipeline, data, get_task("jpeg"), "flash", settings=FEW)}
    assert found[1].failed == "it diverged" and found[1].record is None and found[1].clean is not None
    assert found[0].record is not None and found[2].record is not None


@pytest.mark.parametrize("method", ["flash", "bound"])
def test_images_are_held_only_until_they_are_done(tiny_pipeline, image_folder, monkeypatch, method):
    data = ImageDataset([image_folder] * 2, 32, cache_gib=0)
    held: list[weakref.ref[torch.Tensor]] = []
    attempt = ImageDataset.attempt

    def watched(self, rows):
        read = attempt(self, rows)
        held.extend(weakref.ref(image) for image in read)
        return read

    monkeypatch.setattr(ImageDataset, "attempt", watched)
    most = 0
    for one in evaluate(tiny_pipeline, data, get_task("jpeg"), method, settings=FEW, batch_size=4, max_in_flight=2):
        held.append(weakref.ref(one.clean))
        del one
        most = max(most, sum(ref() is not None for ref in held))
    assert len(held) == 2 * 24 and most <= 16, "a few batches, however many images there are"
