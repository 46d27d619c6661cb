import pytest

from flashdiffusion.data import PictureDataset
from flashdiffusion.errors import InputError
from flashdiffusion.experiments import evaluate
from flashdiffusion.methods import Settings
from flashdiffusion.physics import get_task


@pytest.mark.parametrize(("task", "kind"), [("mixture", "nonlinear-blur"), ("jpeg", "jpeg")])
@pytest.mark.parametrize("seed", range(3))
def test_psld_on_what_may_be_nonlinear_is_refused_whatever_is_drawn(tiny_pipeline, picture_folder, task, kind, seed):
    data = PictureDataset([picture_folder], 32, 1)
    with pytest.raises(InputError, match=f"psld needs linear degradations, and task {task} has {kind}"):
        next(evaluate(tiny_pipeline, data, get_task(task), "flash(psld)", seed=seed))


def test_psld_serves_linear_tasks(tiny_pipeline, picture_folder):
    data = PictureDataset([picture_folder], 32, 1)
    for task in ("gaussian-blur", "random-inpainting", "motion-blur"):
        (part,) = evaluate(tiny_pipeline, data, get_task(task), "psld", settings=Settings(steps=3))
        assert [record.nfe for record in part.records] == [3]
