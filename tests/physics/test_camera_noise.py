import pytest
import torch

from flashdiffusion.data import MeasurementFile
from flashdiffusion.errors import InputError
from flashdiffusion.methods import SOLVERS
from flashdiffusion.physics import (
    JPEG,
    PHYSICS,
    TASKS,
    CameraNoise,
    Compose,
    Denoising,
    GaussianBlur,
    Operator,
    concatenate,
)
from flashdiffusion.physics.noise import entry_std, shot_noise
from flashdiffusion.physics.tasks import measure
from flashdiffusion.solvers import Problem
from flashdiffusion.training.degrade import Degradation
from flashdiffusion.training.draws import Draws


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _x(count=4, side=64):
    return torch.rand(count, 3, side, side, generator=_generator(1))


def test_its_mean_and_variance_are_those_of_photons_and_reading():
    for level in (0.05, 0.5, 1.0):
        x, gains = torch.full((3, 3, 128, 128), level), torch.tensor([0.0, 0.01, 0.2])
        noise = (CameraNoise(gains, noise_std=0.05)(x, _generator()) - x).flatten(1).double()
        variance = gains.double() * level + 0.05**2
        assert noise.mean(dim=1).tolist() == pytest.approx([0.0] * 3, abs=5 * float(variance.max() / 128**2 / 3) ** 0.5)
        assert noise.var(dim=1).tolist() == pytest.approx(variance.tolist(), rel=0.05)


def test_photons_are_counted():
    counts = CameraNoise(0.1, noise_std=0.0)(_x(1), _generator()) / 0.1
    torch.testing.assert_close(counts, counts.round())
    assert float(counts.min()) == 0 and float(counts.var()) > float(counts.mean())  # of more than one brightness


@pytest.mark.parametrize("gain", [1e-12, 1e-9, 1e-5])
def test_faint_noise_is_no_error(gain):
    noise = shot_noise(_x(1).double(), torch.tensor([gain]), _generator()) - _x(1)
    assert float(noise.square().mean()) == pytest.approx(0.5 * gain, rel=0.05)


def test_no_light_and_no_gain_have_no_shot_noise():
    x = _x(2)
    x[0] = -x[0]  # as what an operator may give
    assert torch.equal(CameraNoise([0.1, 0.0], noise_std=0.0)(x, _generator()), x)


def test_solvers_are_told_its_mean_variance():
    physics = CameraNoise([0.0, 0.01, 0.2, 0.0], [0.0, 0.05, 0.1, 0.1])
    y = physics(_x(), _generator())
    problem = Problem(y, physics)
    expected = ((y - _x()).flatten(1).square()).mean(dim=1)
    torch.testing.assert_close(problem.noise_variance, expected, rtol=0.05, atol=1e-9)
    torch.testing.assert_close(problem.conditions.noise_std, problem.noise_variance.sqrt())
    rows = torch.tensor([2, 1])
    torch.testing.assert_close(problem.take(rows).noise_variance, problem.noise_variance[rows])
    assert Problem(-y, CameraNoise(0.1, 0.0)).noise_variance.tolist() == [0.0] * 4


def test_in_compositions_and_mixtures():
    blurred = Compose(GaussianBlur(1.0), CameraNoise(0.1, 0.05))
    ours = concatenate([Denoising(0.2), blurred, CameraNoise(0.01, 0.0)])
    assert ours.gain.tolist() == pytest.approx([0.0, 0.1, 0.01])
    assert ours.take(torch.tensor([1, 0])).gain.tolist() == pytest.approx([0.1, 0.0])
    assert concatenate([Denoising(0.2), GaussianBlur(1.0)]).gain is None
    y = ours(_x(3), _generator())
    noise = (y - ours.A(_x(3))).flatten(1).square().mean(dim=1)
    torch.testing.assert_close(Problem(y, ours).noise_variance, noise, rtol=0.05, atol=0)
    chain = Compose(Operator(lambda x: 0.5 * x), CameraNoise(0.1, 0.05))
    y = chain(_x(2))
    noise = (y - 0.5 * _x(2)).flatten(1).square().mean(dim=1)
    torch.testing.assert_close(Problem(y, chain).noise_variance, noise, rtol=0.1, atol=0)


def test_a_batch_equals_its_images_alone():
    ids, task = ["a", "b", "c"], TASKS["camera-noise"]
    together = measure(_x(3), ids, task, 0.02, seed=0)
    for n, name in enumerate(ids):
        alone = measure(_x(3)[[n]], [name], task, 0.02, seed=0)
        assert torch.equal(alone.y, together.y[[n]]) and alone.physics.gain == together.physics.gain[n]


def test_each_level_of_its_task_is_noisier():
    task = TASKS["camera-noise"]
    levels = torch.linspace(*task.ordering, 6)
    y = task.build(levels, (64, 64), _generator(), 0.01)(_x(1).expand(6, -1, -1, -1), _generator())
    assert bool(((y - _x(1)).flatten(1).square().mean(dim=1).diff() > 0).all())


def test_a_measurement_file_keeps_it(tmp_path):
    physics = CameraNoise(0.03, 0.01)
    y = physics(_x(1), _generator())
    MeasurementFile("one", y[0], physics.name, physics.params, 0.01).save(tmp_path / "one.safetensors")
    file = MeasurementFile.load(tmp_path / "one.safetensors")
    again = PHYSICS[file.physics].cls.from_params(file.params, file.noise_std)
    assert again.describe() == [{"physics": "camera-noise", "gain": 0.03}]
    assert torch.equal(Problem(file.y[None], again).noise_variance, Problem(y, physics).noise_variance)


def test_training_draws_the_same_variance():
    x = torch.full((4, 3, 64, 64), 0.4)
    draws = Draws(0, 0, 4, slice(0, 4), "cpu")
    seen = Degradation("camera-noise", (0.01, 0.02)).seen(x, draws)
    noise = (seen.image - x).flatten(1).square().mean(dim=1)
    torch.testing.assert_close(seen.conditions.noise_std.square(), noise.double(), rtol=0.05, atol=0, check_dtype=False)
    physics = CameraNoise(0.25, 0.3)
    assert float(entry_std(torch.ones(1, 3, 2, 2), physics.noise_std, physics.gain).max()) == pytest.approx(0.34**0.5)


@pytest.mark.parametrize("bad", [-0.01, 1.5, float("nan"), [[0.1]]])
def test_refuses_gains_that_are_none(bad):
    with pytest.raises(InputError, match=r"camera gain is .*; expected numbers from 0 to 1 \(y of one photon\)"):
        CameraNoise(bad)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "dps"])
def test_every_solver_takes_it(tiny_pipeline, solver):
    physics = CameraNoise([0.001, 0.05], 0.02)
    y = physics(_x(2, 32), _generator())
    assert tiny_pipeline(y, physics, solver=solver, start="flash", steps=2).images.isfinite().all()


def test_photons_are_counted_last():
    with pytest.raises(InputError, match="camera-noise counts photons"):
        Compose(CameraNoise(0.05, 0.0), JPEG(50))
