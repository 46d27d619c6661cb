"""What every operator promises, over an example of each."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from examples import examples
from flashdiffusion.data import MeasurementFile
from flashdiffusion.errors import InputError
from flashdiffusion.physics import (
    HDR,
    JPEG,
    PHYSICS,
    TASKS,
    BatchedPhysics,
    BoxInpainting,
    CameraShake,
    Compose,
    GaussianBlur,
    Mixed,
    MotionBlur,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
    concatenate,
    is_linear,
)
from flashdiffusion.physics.noise import mean_variance
from flashdiffusion.physics.tasks import measure
from flashdiffusion.types import Physics, RowwisePhysics

SIZE = (24, 20)  # not square: an operator that swaps the axes is found out


def _mask(count: int) -> torch.Tensor:
    return (torch.rand(count, 1, *SIZE, generator=torch.Generator().manual_seed(1)) > 0.7).float()


def _generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _example(name: str, number: int) -> BatchedPhysics:
    return examples(SIZE)[name][number]


MAKE = {
    f"{name} {number}" if number else name: partial(_example, name, number)
    for name, made in examples(SIZE).items()
    for number in range(len(made))
}
LINEAR = [name for name, make in MAKE.items() if hasattr(make(), "A_adjoint")]
SMOOTH = [name for name, make in MAKE.items() if "jpeg" not in str(make().describe())]


def test_every_operator_has_an_example():
    assert PHYSICS.keys() == examples(SIZE).keys() | {"blur-kernel-space"}  # which needs a network


@pytest.fixture(params=MAKE)
def physics(request):
    return MAKE[request.param]()


@pytest.fixture(params=LINEAR)
def linear(request):
    return MAKE[request.param]()


def _x(count: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _like_y(physics) -> torch.Tensor:
    return torch.randn(physics.A(_x()).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_every_operator_is_tried_but_that_of_a_network():
    assert {make().name for make in MAKE.values()} == set(PHYSICS) - {"blur-kernel-space"}


@pytest.mark.parametrize("known", [PHYSICS, TASKS], ids=["operators", "tasks"])
def test_the_documentation_has_a_row_for_each(known):
    rows = (Path(__file__).parents[2] / "docs" / "degradations.md").read_text()
    assert [name for name in known if f"| `{name}` |" not in rows] == []


def test_speaks_the_protocol(physics):
    assert isinstance(physics, Physics)
    assert isinstance(physics, RowwisePhysics)
    assert len(physics) == 4


def test_only_linear_operators_have_an_adjoint():
    inpainting = ["random-inpainting", "box-inpainting"]
    blurs = ["gaussian-blur", "motion-blur", "defocus", "blur", "blur 1"]
    linear = {*blurs, "super-resolution", "denoising", "camera-noise", "composed 1", *inpainting}
    assert set(LINEAR) == linear
    assert all(is_linear(make()) == (name in LINEAR) for name, make in MAKE.items())


def test_adjoint_dot_test_and_at_every_border(linear):
    x, y = _x(), _like_y(linear)
    left, right = (linear.A(x) * y).flatten(1).sum(1), (x * linear.A_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)
    height, width = SIZE
    for row, column in ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (0, 7), (9, 0), (1, 1)):
        dirac = torch.zeros(4, 3, *SIZE, dtype=torch.float64)
        dirac[:, :, row, column] = 1
        left = (linear.A(dirac) * y).flatten(1).sum(1)
        torch.testing.assert_close(left, linear.A_adjoint(y)[:, :, row, column].sum(1), rtol=1e-6, atol=1e-9)


def test_adjoint_is_the_gradient(linear):
    x = _x().requires_grad_()
    y = _like_y(linear)
    (gradient,) = torch.autograd.grad((linear.A(x) * y).sum(), x)
    torch.testing.assert_close(gradient, linear.A_adjoint(y))


def test_adjoint_is_the_same_in_inference_mode(linear):
    y = _like_y(linear)
    expected = linear.A_adjoint(y)
    with torch.inference_mode():
        torch.testing.assert_close(linear.A_adjoint(y.clone()), expected)


def test_adjoint_is_differentiable_with_gradients_on_or_off(linear):
    y, x = _like_y(linear), _x()
    with torch.no_grad():
        adjoint = linear.A_adjoint(y)
    assert not adjoint.requires_grad
    y.requires_grad_()
    (gradient,) = torch.autograd.grad((linear.A_adjoint(y) * x).sum(), y)
    torch.testing.assert_close(gradient, linear.A(x))


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_equals_finite_differences(name):
    physics = MAKE[name]()
    x = (0.4 + 0.2 * _x()).requires_grad_()  # where HDR does not clip
    weights, direction, step = _like_y(physics), _x() - 0.5, 1e-6
    (gradient,) = torch.autograd.grad((physics.A(x) * weights).sum(), x)
    with torch.no_grad():
        change = physics.A(x + step * direction) - physics.A(x - step * direction)
        expected = (change * weights).flatten(1).sum(1) / (2 * step)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_at_black_and_white(physics):
    for value in (0.0, 1.0):
        x = torch.full((4, 3, *SIZE), value, requires_grad=True)
        (gradient,) = torch.autograd.grad(physics.A(x).sum(), x)
        assert bool(gradient.isfinite().all())


def test_taking_rows_equals_rows_of_the_batch(physics):
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(physics.take(rows).A(_x()[rows]), physics.A(_x())[rows], rtol=1e-6, atol=1e-7)
    assert len(physics.take(rows)) == 2
    assert physics.take(rows).describe() == [physics.describe()[2], physics.describe()[0]]


def test_a_row_does_not_depend_on_the_others(physics):
    other = _x()
    other[1:] = 1 - other[1:].flip(0)
    torch.testing.assert_close(physics.A(other)[0], physics.A(_x())[0], rtol=1e-9, atol=1e-12)


def test_rebuilds_from_its_parameters(physics):
    again = PHYSICS[physics.name].cls.from_params(physics.params, physics.noise_std)
    assert type(again) is type(physics)
    assert torch.equal(again.A(_x()), physics.A(_x()))
    with pytest.raises(InputError, match="has the parameter"):
        type(physics).from_params({"wrong": torch.zeros(1)}, 0.05)


def test_rebuilds_from_a_measurement_file(physics, tmp_path):
    one = physics.take(torch.tensor([2]))
    y = one(_x()[[2]].float(), _generator())
    path = tmp_path / "one.safetensors"
    MeasurementFile("one", y[0], one.name, one.params, float(one.noise_std[0])).save(path)
    file = MeasurementFile.load(path)
    again = PHYSICS[file.physics].cls.from_params(file.params, file.noise_std)
    assert torch.equal(again(_x()[[2]].float(), _generator()), file.y[None])
    assert again.describe() == one.describe()


def test_concatenating_is_the_inverse_of_taking(physics):
    parts = [physics.take(torch.tensor([row])) for row in range(4)]
    together = concatenate(parts)
    assert type(together) is type(physics)
    torch.testing.assert_close(together.A(_x()), physics.A(_x()), rtol=1e-6, atol=1e-7)


def test_moving_keeps_it(physics):
    assert torch.equal(physics.to("cpu").A(_x()), physics.A(_x()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_is_the_same_on_a_gpu(physics):
    x = _x(dtype=torch.float32)
    there = physics.to("cuda")
    y = there.A(x.cuda())
    if "jpeg" in str(physics.describe()):  # a coefficient on the edge may be rounded the other way
        assert float((y.cpu() - physics.A(x)).abs().mean()) < 1e-3
    else:
        torch.testing.assert_close(y.cpu(), physics.A(x), rtol=1e-4, atol=1e-4)
    assert there.image(y).device.type == "cuda"
    assert there.take(torch.tensor([1], device="cuda")).A(x[[1]].cuda()).device.type == "cuda"


def test_noise_has_its_standard_deviation_and_comes_from_the_generator(physics):
    std = [0.0, 0.02, 0.05, 0.1]
    physics = type(physics).from_params(physics.params, std)
    assert physics.noise_std.tolist() == std and physics.noise_std.dtype == torch.float64
    x = _x()
    noise = (physics(x, torch.Generator().manual_seed(0)) - physics.A(x)).flatten(1)
    slack = 5 / (2 * noise.shape[1]) ** 0.5  # five standard deviations of the estimate
    expected = mean_variance(physics.A(x), physics.noise_std, physics.gain).sqrt()
    assert noise.std(dim=1).tolist() == pytest.approx(expected.tolist(), rel=slack)
    assert physics.gain is not None or expected.tolist() == pytest.approx(std)
    assert torch.equal(physics(x, torch.Generator().manual_seed(5)), physics(x, torch.Generator().manual_seed(5)))
    assert physics.take(torch.tensor([3, 1])).noise_std.tolist() == [0.1, 0.02]


def test_a_measurement_has_an_image_of_the_size_of_x(physics):
    image = physics.image(physics(_x(), _generator()))
    assert image.shape == _x().shape
    assert bool(image.isfinite().all())


def test_keeps_the_dtype(physics):
    for dtype in (torch.float32, torch.float64):
        y = physics.A(_x(dtype=dtype))
        assert y.dtype == physics.image(y).dtype == dtype
        assert physics(_x(dtype=dtype), _generator()).dtype == dtype


def test_refuses_another_number_of_images(physics):
    with pytest.raises(InputError, match="one image per row"):
        physics.A(_x(3))


@pytest.mark.parametrize("bad", [-0.01, float("nan"), float("inf")])
def test_refuses_a_noise_std_that_is_none(bad):
    for noise_std in (bad, [0.05, bad]):
        with pytest.raises(InputError, match="noise std"):
            GaussianBlur([1.0, 2.0], noise_std)


def test_refuses_another_number_of_noise_stds_than_images():
    with pytest.raises(InputError, match="3 noise stds for 2 images"):
        GaussianBlur([1.0, 2.0], [0.1, 0.2, 0.3])


# -- several kinds in one batch ---------------------------------------------------------------------------

KINDS = ["jpeg", "gaussian-blur", "box-inpainting", "nonlinear-blur", "hdr", "composed"]


def _mixed() -> tuple[Mixed, list]:
    """One image of each kind, with noise of its own."""
    singles = []
    for i, name in enumerate(KINDS):
        one = MAKE[name]().take(torch.tensor([1]))
        singles.append(type(one).from_params(one.params, 0.01 * i))
    return concatenate(singles), singles


def test_mixed_rows_equal_the_single_operators():
    mixed, singles = _mixed()
    x = _x(len(KINDS))
    assert isinstance(mixed, Mixed) and not is_linear(mixed)
    y = mixed.A(x)
    for row, one in enumerate(singles):
        torch.testing.assert_close(y[[row]], one.A(x[[row]]))
    assert mixed.describe() == [one.describe()[0] for one in singles]
    assert mixed.noise_std.tolist() == [0.01 * i for i in range(len(KINDS))]
    assert torch.equal(mixed.image(y), y)


def test_a_mixture_of_linear_operators_is_linear():
    x = _x()
    mixed = concatenate([GaussianBlur([1.0]), RandomInpainting(_mask(1)), GaussianBlur([0.5, 2.0])])
    assert isinstance(mixed, Mixed) and is_linear(mixed)
    y = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left, right = (mixed.A(x) * y).flatten(1).sum(1), (x * mixed.A_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)
    assert not is_linear(concatenate([GaussianBlur([1.0]), HDR(torch.ones(1))]))


def test_mixed_noise_is_each_images_own():
    mixed, _ = _mixed()
    x = _x(len(KINDS))
    noise = (mixed(x, _generator()) - mixed.A(x)).flatten(1)
    assert noise.std(dim=1).tolist() == pytest.approx(mixed.noise_std.tolist(), rel=0.1)


def test_mixed_rows_are_taken_in_any_order():
    mixed, _ = _mixed()
    x = _x(len(KINDS))
    rows = torch.tensor([4, 0, 3])
    taken = mixed.take(rows)
    torch.testing.assert_close(taken.A(x[rows]), mixed.A(x)[rows])
    assert taken.noise_std.tolist() == [0.04, 0.0, 0.03]
    assert isinstance(mixed.take(torch.tensor([1])), GaussianBlur)


def test_mixed_makes_images_of_measurements_that_are_none():
    parts = [Compose(SuperResolution([2]), JPEG([50])), SuperResolution([2]), SuperResolution([2])]
    mixed = concatenate(parts)
    y = mixed.A(_x(3))
    assert y.shape == (3, 3, 12, 10) and mixed.image(y).shape == (3, 3, *SIZE)
    with pytest.raises(InputError, match="measurements of shapes"):
        concatenate([GaussianBlur([1.0]), SuperResolution([2])]).A(_x(2))


def test_compositions_of_different_kinds_are_mixed():
    parts = [
        Compose(GaussianBlur([1.0]), JPEG([50])),
        Compose(HDR([2.0]), JPEG([20])),
        Compose(GaussianBlur([2.0]), JPEG([80])),
    ]
    together = concatenate(parts)
    assert isinstance(together, Mixed)
    expected = torch.cat([one.A(_x()[[row]]) for row, one in enumerate(parts)])
    torch.testing.assert_close(together.A(_x(3)), expected)


def test_a_mixture_of_mixtures_is_one_of_their_parts():
    blur, jpeg, hdr = GaussianBlur([1.0, 2.0]), JPEG([20]), HDR([2.0])
    inner = Mixed([(torch.tensor([2, 0]), blur), (torch.tensor([1]), jpeg)])
    mixed = Mixed([(torch.tensor([3, 0, 2]), inner), (torch.tensor([1]), hdr)])
    assert [type(part) for _, part in mixed.parts] == [GaussianBlur, JPEG, HDR]
    order = [jpeg, hdr, GaussianBlur([1.0]), GaussianBlur([2.0])]
    torch.testing.assert_close(mixed.A(_x()), torch.cat([one.A(_x()[[row]]) for row, one in enumerate(order)]))


def test_mixtures_are_concatenated():
    mixed, singles = _mixed()
    x = _x(2 * len(KINDS) + 1)
    together = concatenate([mixed, HDR([3.0], 0.5), mixed])
    expected = [*singles, HDR([3.0], 0.5), *singles]
    torch.testing.assert_close(together.A(x), torch.cat([one.A(x[[row]]) for row, one in enumerate(expected)]))
    assert together.noise_std.tolist() == [float(one.noise_std[0]) for one in expected]
    assert len(together.parts) == len(KINDS)
    joined = Mixed.join([mixed, mixed])
    torch.testing.assert_close(joined.A(x[:-1]), torch.cat([mixed.A(x[: len(KINDS)]), mixed.A(x[len(KINDS) : -1])]))


def test_a_mixture_of_one_kind_is_concatenated_to_that_kind_in_its_order():
    swapped = Mixed([(torch.tensor([1]), GaussianBlur([1.0])), (torch.tensor([0]), GaussianBlur([2.0]))])
    together = concatenate([swapped, GaussianBlur([3.0])])
    assert isinstance(together, GaussianBlur) and together.params["std"].tolist() == [2.0, 1.0, 3.0]


def test_whatever_a_mixture_calls_linear_has_an_adjoint():
    class Own(BatchedPhysics):  # linear by its method alone
        name = "own"

        def A(self, x):
            return 2 * x

        A_adjoint = A

        def describe(self):
            return [{"physics": self.name}] * len(self)

        @classmethod
        def from_params(cls, params, noise_std):
            return cls(params, noise_std)

    mixed = concatenate([GaussianBlur([0.0]), Own({"row": torch.zeros(1)}, 0.05)])
    assert is_linear(mixed)
    torch.testing.assert_close(mixed.A_adjoint(_x(2)), torch.stack([_x(2)[0], 2 * _x(2)[1]]))


# -- tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_measurements_depend_on_seed_and_id_alone(task):
    x, ids = _x(dtype=torch.float32), ["a", "b", "c", "d"]
    x = torch.cat([x, x], dim=3)[..., :24]  # sides that 2, 3 and 4 divide
    if task.name == "photographs":
        many = [f"{id}{n}" for n in range(8) for id in ids]
        with pytest.raises(InputError, match="drew measurements of shapes"):
            measure(x.repeat(8, 1, 1, 1), many, task, 0.05, seed=1)
        return
    together = measure(x, ids, task, 0.05, seed=1)
    order = [2, 0]
    part = measure(x[order], [ids[i] for i in order], task, 0.05, seed=1)
    torch.testing.assert_close(part.y, together.y[order])
    assert not torch.equal(measure(x, ids, task, 0.05, seed=2).y, together.y)
    seen = together.physics.image(together.y)
    assert not torch.equal(seen[0] - x[0], seen[1] - x[1])


def _level(task, row: dict) -> float:
    """The level that an image was drawn with, as far as its operator knows it."""
    return row["height"] / min(SIZE) if task.name == "box-inpainting" else float(row[task.level])


# A mask's share of pixels varies around its ratio, a path is drawn into whole pixels, a box has whole ones.
SLACK = {
    "random-inpainting": 0.15,
    "random-inpainting-any": 0.15,
    "nonlinear-blur": 0.2,
    "motion-blur": 0.2,
    "box-inpainting": 0.03,
}


# A scribble's mask does not say how wide the pen was.
@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.level not in {None, "width"}], ids=lambda t: t.name)
def test_tasks_draw_from_their_range_a_level_per_image(task):
    physics = task.draw(200, SIZE, torch.Generator().manual_seed(0), 0.05)
    assert physics.name == task.physics
    levels = torch.tensor([_level(task, row) for row in physics.describe()])
    slack = SLACK.get(task.name, 1e-4)
    assert float(levels.min()) >= task.low - slack
    assert float(levels.max()) <= task.high + slack
    expected = (task.low + task.high) / 2
    assert float(levels.mean()) == pytest.approx(expected, abs=0.1 * (task.high - task.low) + slack)
    if task.high > task.low:
        assert len(levels.unique()) > (5 if task.name == "box-inpainting" else 20)


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.level], ids=lambda t: t.name)
def test_tasks_can_be_set_to_the_levels_of_the_ordering(task):
    x = torch.rand(1, 3, 32, 40, generator=_generator())  # sides that every factor divides
    for level in task.ordering:
        assert task.at(level, (32, 40), _generator(), 0.05).A(x).isfinite().all()


def test_a_task_with_levels_of_its_own_takes_no_other():
    task = TASKS["super-resolution"]
    for level in task.levels:
        assert task.at(level, (32, 32), _generator(), 0.05).describe()[0]["factor"] == level
    with pytest.raises(InputError, match="factor is 3; expected one of the levels of task super-resolution: 2, 4, 8"):
        task.at(3.0, (32, 32), _generator(), 0.05)
    with pytest.raises(InputError, match=r"super-resolution factor is \[3.5\]; expected whole numbers"):
        task.build(torch.tensor([3.5]), (32, 32), _generator(), 0.05)
    seen = set()
    for seed in range(20):
        drawn = replace(task, low=2.0, high=5.0).draw(1, (32, 32), _generator(seed), 0.05)
        seen.add(drawn.factor)
    assert seen == {2, 4}


def test_a_mixture_draws_each_of_its_tasks():
    physics = TASKS["mixture"].draw(60, SIZE, _generator(), torch.linspace(0, 0.1, 60))
    kinds = {row["physics"] for row in physics.describe()}
    assert kinds == {"gaussian-blur", "nonlinear-blur", "random-inpainting"}
    torch.testing.assert_close(physics.noise_std, torch.linspace(0, 0.1, 60).double())


@pytest.mark.parametrize("number", [2.0, torch.tensor(2.0)])
@pytest.mark.parametrize(
    "make",
    [
        GaussianBlur,
        JPEG,
        HDR,
        PhaseRetrieval,
        SuperResolution,
        lambda number: BoxInpainting(number, [1], [1], [1]),
        lambda number: BoxInpainting.from_side(number / 4, SIZE, _generator()),
        lambda number: RandomInpainting.from_ratio(number / 4, SIZE, _generator()),
        lambda number: MotionBlur.from_line(number, [0.0]),
        lambda number: MotionBlur.from_line([1.0], number),
        lambda number: MotionBlur.from_std(number, _generator()),
        lambda number: CameraShake.from_std(number, _generator()),
        lambda number: Compose(GaussianBlur(number), JPEG([10, 20, 30, 40])),
        lambda number: Compose(GaussianBlur([1.0, 2.0, 1.0, 2.0]), HDR(number)),
    ],
)
def test_one_number_is_for_the_whole_batch(make, number):
    physics = make(number)
    for_each = physics if len(physics) == 4 else physics.take(torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(physics.A(_x()), for_each.A(_x()))
    y = physics(_x(), _generator())
    torch.testing.assert_close(y, for_each(_x(), _generator()))
    torch.testing.assert_close(physics.image(y), for_each.image(y))
    if is_linear(physics):
        torch.testing.assert_close(physics.A_adjoint(y), for_each.A_adjoint(y))


def test_noise_levels_make_a_batch_of_one_number():
    assert GaussianBlur(2.0, [0.1, 0.2]).params["std"].tolist() == [2.0, 2.0]
