"""What every operator promises, over all of them; a new operator is added to OPERATORS."""

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import OPERATORS, TASKS, GaussianBlur, RandomInpainting, WithParams
from flashdiffusion.physics.tasks import concatenate, measure
from flashdiffusion.sampling import Problem
from flashdiffusion.types import LinearPhysics, Physics, RowwisePhysics

SIZE = (24, 20)  # not square: an operator that swaps the axes is found out


def _mask(count: int) -> torch.Tensor:
    return (torch.rand(count, 1, *SIZE, generator=torch.Generator().manual_seed(1)) > 0.7).float()


MAKE = {
    "gaussian-blur": lambda: GaussianBlur([0.0, 0.3, 1.7, 4.5]),
    "random-inpainting": lambda: RandomInpainting(_mask(4)),
}


@pytest.fixture(params=OPERATORS)
def physics(request):
    return MAKE[request.param]()


def _x(count: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_speaks_the_protocol(physics):
    assert isinstance(physics, Physics)
    assert isinstance(physics, LinearPhysics)
    assert isinstance(physics, RowwisePhysics)


def test_adjoint_dot_test_and_at_every_border(physics):
    x, y = _x(), torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left, right = (physics.A(x) * y).flatten(1).sum(1), (x * physics.A_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)
    height, width = SIZE
    for row, column in ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (0, 7), (9, 0), (1, 1)):
        dirac = torch.zeros(4, 3, *SIZE, dtype=torch.float64)
        dirac[:, :, row, column] = 1
        left = (physics.A(dirac) * y).flatten(1).sum(1)
        torch.testing.assert_close(left, physics.A_adjoint(y)[:, :, row, column].sum(1), rtol=1e-6, atol=1e-9)


def test_adjoint_is_the_gradient(physics):
    x = _x().requires_grad_()
    y = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((physics.A(x) * y).sum(), x)
    torch.testing.assert_close(gradient, physics.A_adjoint(y))


def test_taking_rows_equals_rows_of_the_batch(physics):
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(physics.take(rows).A(_x()[rows]), physics.A(_x())[rows], rtol=1e-6, atol=1e-7)
    assert len(physics.take(rows)) == 2


def test_rebuilds_from_its_parameters(physics):
    again = OPERATORS[physics.name].from_params(physics.params, physics.noise_std)
    assert torch.equal(again.A(_x()), physics.A(_x()))
    with pytest.raises(InputError, match="has the parameter"):
        type(physics).from_params({"wrong": torch.zeros(1)}, 0.05)


def test_concatenating_is_the_inverse_of_taking(physics):
    parts = [physics.take(torch.tensor([row])) for row in range(4)]
    torch.testing.assert_close(concatenate(parts).A(_x()), physics.A(_x()), rtol=1e-6, atol=1e-7)


def test_noise_has_its_standard_deviation_and_comes_from_the_generator(physics):
    x = _x()
    noise = physics(x, torch.Generator().manual_seed(0)) - physics.A(x)
    assert float(noise.std()) == pytest.approx(physics.noise_std, rel=0.05)
    assert torch.equal(physics(x, torch.Generator().manual_seed(5)), physics(x, torch.Generator().manual_seed(5)))


def test_keeps_the_dtype(physics):
    assert physics.A(_x(dtype=torch.float32)).dtype == torch.float32
    assert physics.A(_x()).dtype == torch.float64


def test_refuses_another_number_of_pictures(physics):
    with pytest.raises(InputError, match="one picture per row"):
        physics.A(_x(3))


@pytest.mark.parametrize("bad", [-0.01, float("nan"), float("inf")])
def test_refuses_a_noise_std_that_is_none(bad):
    with pytest.raises(InputError, match="noise std"):
        GaussianBlur([1.0], bad)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_measurements_depend_on_seed_and_id_alone(task):
    x, ids = _x(dtype=torch.float32), ["a", "b", "c", "d"]
    together = measure(x, ids, task, 0.05, seed=1)
    order = [2, 0]
    part = measure(x[order], [ids[i] for i in order], task, 0.05, seed=1)
    torch.testing.assert_close(part.y, together.y[order])
    assert not torch.equal(measure(x, ids, task, 0.05, seed=2).y, together.y)
    assert not torch.equal(together.y[0] - x[0], together.y[1] - x[1])


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_tasks_draw_from_their_range_a_level_per_picture(task):
    physics = task.draw(200, SIZE, torch.Generator().manual_seed(0), 0.05)
    levels = torch.tensor([float(row[task.level]) for row in physics.describe()])
    slack = 0.15 if task.name == "random-inpainting" else 1e-4  # a mask's share of pixels varies around its ratio
    assert float(levels.min()) >= task.low - slack
    assert float(levels.max()) <= task.high + slack
    assert float(levels.mean()) == pytest.approx((task.low + task.high) / 2, abs=0.15)
    if task.high > task.low:
        assert len(levels.unique()) > 20


class DeepInverseLikeBlur:
    """Speaks as DeepInverse does: parameters passed with a call are stored, and used by later calls."""

    def __init__(self) -> None:
        self.scale = torch.ones(1, 1, 1, 1)

    def A(self, x, scale=None):
        if scale is not None:
            self.scale = scale
        return x * self.scale

    def A_adjoint(self, y, scale=None):
        return self.A(y, scale=scale)


def test_foreign_physics_takes_rows_of_its_parameters():
    scale = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    physics = WithParams(DeepInverseLikeBlur(), scale=scale)
    x = torch.ones(3, 3, 4, 4)
    problem = Problem(torch.zeros(3, 3, 4, 4), physics)
    full = problem.loss(x)
    for rows in (torch.tensor([2]), torch.tensor([1, 0]), torch.tensor([0, 1, 2])):
        torch.testing.assert_close(problem.take(rows).loss(x[rows]), full[rows])
    assert isinstance(physics, LinearPhysics)


def test_foreign_physics_without_parameters_serves_every_row():
    problem = Problem(torch.zeros(3, 3, 4, 4), DeepInverseLikeBlur())
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.take(torch.tensor([1])).loss(x[[1]]), problem.loss(x)[[1]])


def test_problem_refuses_an_operator_of_another_output_shape():
    with pytest.raises(InputError, match="measurements of shape"):
        Problem(torch.zeros(3, 3, 2, 2), DeepInverseLikeBlur()).loss(torch.zeros(3, 3, 4, 4))


def test_loss_is_per_picture_and_on_the_network_scale():
    y = torch.zeros(2, 3, 4, 4)
    x = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 0.25)])
    expected = torch.tensor([1.0, 0.5]) * 48**0.5
    torch.testing.assert_close(Problem(y, DeepInverseLikeBlur()).loss(x), expected)
