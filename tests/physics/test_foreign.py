"""DeepInverse's operators passed as they are, through stand-ins that speak its protocol exactly."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from flashdiffusion import Batch, GaussianBlur, Settings
from flashdiffusion.errors import InputError
from flashdiffusion.physics import Compose, WithParams, flattened, is_linear
from flashdiffusion.solvers import Problem, ReSample, Transition
from flashdiffusion.types import LinearPhysics, Physics
from toy import ToyPrior


class DeepInverseLike(torch.nn.Module):
    """Parameters passed with a call are stored and used by later calls; `A_vjp` takes none."""

    parameter: str

    def __init__(self, value: torch.Tensor, sigma: float = 0.05) -> None:
        super().__init__()
        self.register_buffer(self.parameter, value)
        self.sigma = sigma

    def _update(self, value: torch.Tensor | None) -> torch.Tensor:
        if value is not None:
            setattr(self, self.parameter, value)
        return getattr(self, self.parameter)

    def forward(self, x, **params):
        y = self.A(x, **params)
        return y + self.sigma * torch.randn_like(y)

    def A_vjp(self, x, v):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.A(x), x, v)[0]


class Blur(DeepInverseLike):
    """Convolution, circular, with filters (B or 1, 1, k, k)."""

    parameter = "filter"

    def A(self, x, filter=None):
        filter = self._update(filter)
        b, c, _, _ = x.shape
        radius = filter.shape[-1] // 2
        kernels = filter.expand(b, c, -1, -1).reshape(b * c, 1, *filter.shape[-2:])
        padded = F.pad(x, (radius,) * 4, mode="circular").reshape(1, b * c, *(s + 2 * radius for s in x.shape[2:]))
        return F.conv2d(padded, kernels, groups=b * c).view_as(x)

    def A_adjoint(self, y, filter=None):
        filter = self._update(filter)
        adjoint = self.A(y, filter=filter.flip(-1, -2))
        self._update(filter)
        return adjoint


class Inpainting(DeepInverseLike):
    """Multiplication by masks (B or 1, 1, H, W)."""

    parameter = "mask"

    def A(self, x, mask=None):
        return x * self._update(mask)

    def A_adjoint(self, y, mask=None):
        return self.A(y, mask=mask)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _filters(count: int) -> torch.Tensor:
    filters = _random(count, 1, 5, 5, seed=1)
    return filters / filters.sum(dim=(1, 2, 3), keepdim=True)


FOREIGN = {
    "blur": lambda count: (Blur(_filters(1)), {"filter": _filters(count)}),
    "inpainting": lambda count: (Inpainting(torch.ones(1)), {"mask": (_random(count, 1, 32, 32) > 0.5).float()}),
}


@pytest.fixture(params=FOREIGN)
def foreign(request):
    """An operator with parameters for four images."""
    return FOREIGN[request.param](4)


@pytest.mark.parametrize("rows", [[2], [3, 0], [0, 1, 2, 3]])
def test_rows_of_parameters_measure_as_rows_of_the_batch(foreign, rows):
    operator, params = foreign
    physics, x = WithParams(operator, **params), _random(4, 3, 32, 32)
    full, adjoint = physics.A(x), physics.A_adjoint(x)
    taken = physics.take(torch.tensor(rows))
    for _ in range(2):  # what the call before has stored does not matter
        torch.testing.assert_close(taken.A(x[rows]), full[rows])
        torch.testing.assert_close(taken.A_adjoint(x[rows]), adjoint[rows])
        torch.testing.assert_close(physics.A(x), full)


def test_losses_and_gradients_of_rows_are_those_of_the_batch(foreign):
    operator, params = foreign
    x = _random(4, 3, 32, 32).requires_grad_()
    problem = Problem(_random(4, 3, 32, 32, seed=3), WithParams(operator, **params))
    full = problem.loss(x)
    (gradient,) = torch.autograd.grad(full.sum(), x)
    rows = torch.tensor([3, 1])
    part = problem.take(rows).loss(x[rows])
    torch.testing.assert_close(part, full[rows])
    (own,) = torch.autograd.grad(part.sum(), x)
    torch.testing.assert_close(own[rows], gradient[rows])


def test_one_without_parameters_serves_every_row():
    problem = Problem(_random(3, 3, 8, 8, seed=1), Blur(_filters(1)))
    x = _random(3, 3, 8, 8)
    torch.testing.assert_close(problem.take(torch.tensor([1])).loss(x[[1]]), problem.loss(x)[[1]])


def test_speaks_the_protocol(foreign):
    operator, params = foreign
    for physics in (operator, WithParams(operator, **params)):
        assert isinstance(physics, Physics) and isinstance(physics, LinearPhysics) and is_linear(physics)


def test_is_linear_only_if_what_it_wraps_is():
    class Clip:
        def A(self, x, top):
            return x.minimum(top)

    assert not is_linear(WithParams(Clip(), top=torch.ones(2, 1, 1, 1)))


def test_moving_it_moves_operator_and_parameters(foreign):
    operator, params = foreign
    moved = WithParams(operator, **params).to("cpu")
    torch.testing.assert_close(moved.A(_random(4, 3, 32, 32)), operator.A(_random(4, 3, 32, 32), **params))


def test_refuses_parameters_of_different_lengths():
    with pytest.raises(InputError, match="one row per image"):
        WithParams(object(), a=torch.ones(2), b=torch.ones(3))


@pytest.mark.parametrize("start", ["flash", "noise"])
def test_images_are_restored_the_same_in_any_company(tiny_pipeline, foreign, start):
    operator, params = foreign
    physics = WithParams(operator, **params)
    y = physics.A(_random(4, 3, 32, 32))
    # On an untrained model proximal steps amplify rounding.
    options = {"start": start, "solver": "latent-dps", "settings": Settings(steps=4), "seed": 1}
    together = tiny_pipeline(y, physics, max_in_flight=2, ids=list("abcd"), **options)
    rows = torch.tensor([2, 1])
    part = tiny_pipeline(y[rows], physics.take(rows), ids=["c", "b"], **options)
    torch.testing.assert_close(part.images, together.images[rows], rtol=0, atol=1e-4)


def test_an_operator_is_passed_as_it_is(tiny_pipeline):
    operator = Blur(_filters(1))
    x = _random(3, 3, 32, 32)
    settings = Settings(steps=4)
    torch.manual_seed(0)
    y = operator(x)
    given = tiny_pipeline(y, operator, start="noise", max_in_flight=2, settings=settings)
    wrapped = WithParams(operator, filter=_filters(1).expand(3, -1, -1, -1))
    expected = tiny_pipeline(y, wrapped, start="noise", max_in_flight=2, settings=settings)
    torch.testing.assert_close(given.images, expected.images, rtol=0, atol=1e-4)


# -- the loss ---------------------------------------------------------------------------------------------


def test_problem_refuses_an_operator_of_another_output_shape():
    with pytest.raises(InputError, match="measurements of shape"):
        Problem(torch.zeros(3, 3, 2, 2), Inpainting(torch.ones(1))).loss(torch.zeros(3, 3, 4, 4))


def test_loss_is_per_image_and_on_the_network_scale():
    y = torch.zeros(2, 3, 4, 4)
    x = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 0.25)])
    expected = torch.tensor([1.0, 0.5]) * 48**0.5
    torch.testing.assert_close(Problem(y, Inpainting(torch.ones(1))).loss(x), expected)


# -- its noise --------------------------------------------------------------------------------------------


class NoiseModel(torch.nn.Module):
    """DeepInverse's GaussianNoise, as far as it is read."""

    def __init__(self, sigma) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.as_tensor(sigma))


def _noisy(sigma) -> Blur:
    operator = Blur(_filters(1).double())
    operator.noise_model = NoiseModel(sigma)
    return operator


def _latent_iterations(problem: Problem, rows: list[int]) -> list[int]:
    prior = ToyPrior()
    solver = ReSample(prior, Transition(prior.schedule.grid(500)), iterations=100)
    z = torch.zeros(len(rows), 12, 8, 8, dtype=torch.float64)
    noise = torch.zeros(len(rows), 2, 12, 8, 8, dtype=torch.float64)
    return solver.step(z, torch.full((len(rows),), 10), problem.take(torch.tensor(rows)), noise).iterations.tolist()


@pytest.mark.parametrize("wrapped", [False, True])
def test_resample_ends_at_the_noise_of_its_noise_model(wrapped):
    y = _noisy(0.0).A(ToyPrior().decode(torch.ones(3, 12, 8, 8, dtype=torch.float64)))
    steps = []
    for sigma in (0.0, 0.02, 10.0):
        operator = _noisy(sigma)
        physics = WithParams(operator, filter=_filters(1).double().expand(3, -1, -1, -1)) if wrapped else operator
        steps.append(_latent_iterations(Problem(y, physics), [0, 1, 2]))
    assert steps[0] == [100] * 3 and all(1 < n < 100 for n in steps[1]) and steps[2] == [1] * 3


@pytest.mark.parametrize("wrap", [lambda o: o, WithParams], ids=["as it is", "wrapped"])
def test_a_noise_level_per_image_stays_with_its_image(wrap):
    sigma = torch.tensor([0.0, 10.0, 0.02], dtype=torch.float64)
    operator = _noisy(sigma.view(3, 1, 1, 1))
    y = operator.A(ToyPrior().decode(torch.ones(3, 12, 8, 8, dtype=torch.float64)))
    problem = Problem(y, wrap(operator))
    torch.testing.assert_close(problem.noise_variance, sigma**2)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(problem.take(rows).noise_variance, sigma[rows] ** 2)
    torch.testing.assert_close(problem.take(rows).take(torch.tensor([1])).to("cpu").noise_variance, sigma[[0]] ** 2)
    first, second = _latent_iterations(problem, [2, 0])
    assert 1 < first < second == 100


def test_noise_std_comes_before_the_noise_model_and_none_is_no_noise():
    operator = _noisy(0.3)
    operator.noise_std = 0.1
    y = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    assert Problem(y, operator).noise_variance.tolist() == pytest.approx([0.01, 0.01])
    for silent in (Blur(_filters(1)), WithParams(Blur(_filters(1)))):
        assert Problem(y, silent).noise_variance.tolist() == [0, 0]
    with pytest.raises(InputError, match="Blur has 3 noise levels for 2 images"):
        _ = Problem(y, _noisy([0.1, 0.2, 0.3])).noise_variance


# -- measurements of another size -------------------------------------------------------------------------


class Pool(torch.nn.Module):
    """Average pooling, as DeepInverse's super-resolution: y is smaller than x."""

    def A(self, x):
        return F.avg_pool2d(x, 2)

    def A_adjoint(self, y):
        return F.interpolate(y, scale_factor=2) / 4


def _smooth(*shape: int) -> torch.Tensor:
    return F.interpolate(_random(*shape[:2], 4, 4), size=shape[2:], mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("start", ["flash", "noise"])
def test_a_smaller_measurement_is_restored_at_the_size_of_x(tiny_pipeline, start):
    x = _smooth(2, 3, 32, 32)
    y = Pool().A(x)
    image = Problem(y, Pool()).image
    torch.testing.assert_close(image, F.interpolate(y, scale_factor=2, mode="bicubic"))
    restored = tiny_pipeline(y, Pool(), start=start, settings=Settings(steps=3))
    assert restored.images.shape == x.shape


def test_a_measurement_of_the_size_of_x_is_its_image():
    blur = Blur(_filters(1))
    y = blur.A(_smooth(2, 3, 8, 8))
    assert torch.equal(Problem(y, blur).image, y)
    black = torch.zeros(1, 3, 8, 8)
    assert torch.equal(Problem(black, Pool()).image, torch.zeros(1, 3, 16, 16))


class Grey:
    """One channel, as DeepInverse's Decolorize."""

    weights = torch.tensor([0.2989, 0.5870, 0.1140]).view(1, 3, 1, 1)

    def A(self, x):
        return (x * self.weights).sum(1, keepdim=True)

    def A_adjoint(self, y):
        return y * self.weights


def test_a_measurement_of_one_channel_is_seen_as_grey():
    y = Grey().A(_smooth(2, 3, 8, 8))
    assert torch.equal(Problem(y, Grey()).image, y.expand(-1, 3, -1, -1))


class Projections:
    """Numbers in place of images, of any scale: each is a random projection of the image."""

    def __init__(self, count: int, pixels: int) -> None:
        self.matrix = torch.randn(count, pixels, generator=torch.Generator().manual_seed(2))

    def A(self, x):
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y):
        return (y @ self.matrix).view(len(y), 3, 16, 16)


def test_measurements_that_are_no_images_are_seen_by_least_squares(tiny_pipeline):
    x, physics = _smooth(3, 3, 16, 16), Projections(600, 768)
    y = physics.A(x)
    assert float(y.abs().max()) > 10, "on no scale of images"
    image = Problem(y, physics).image
    assert float((image - x).square().mean()) < 0.4 * float((0.5 - x).square().mean())
    torch.testing.assert_close(Problem(y[1:2], physics).image, image[1:2], atol=1e-4, rtol=0)
    assert tiny_pipeline(y, physics, settings=Settings(steps=3)).images.isfinite().all()


def test_what_only_looks_like_an_image_is_seen_by_least_squares_too():
    class Turned:
        """Of the size of x, but upside down."""

        def A(self, x):
            return x.flip(2)

        A_adjoint = A

    x = _smooth(2, 3, 16, 16)
    x[1] = x[1].flip(1).clone()
    torch.testing.assert_close(Problem(x.flip(2), Turned()).image, x, atol=1e-4, rtol=0)


class _StoresWhatItIsGiven:
    """As DeepInverse's operators do: what a call passes is kept, and read again later in the call."""

    def A(self, x, mask):
        self.mask = mask
        time.sleep(0.001)
        return x * self.mask


def test_calls_from_several_threads_do_not_mix_their_parameters():
    operator = _StoresWhatItIsGiven()
    wrapped = [WithParams(operator, mask=torch.full((1, 1, 1, 1), float(n))) for n in range(8)]
    x = torch.ones(1, 3, 4, 4)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            measured = list(pool.map(lambda physics: float(physics.A(x).mean()), wrapped))
            assert measured == [float(n) for n in range(8)]


# -- measurements in a unit of their own -------------------------------------------------------------------


class InUnits(Projections):
    """The same projections in another unit."""

    def __init__(self, unit: float) -> None:
        super().__init__(600, 768)
        self.matrix, self.noise_std = unit * self.matrix, 0.2 * unit


def test_steps_and_starts_do_not_depend_on_the_unit_of_measurements():
    x, guess = _smooth(2, 3, 16, 16), _smooth(2, 3, 16, 16).flip(0)
    y = InUnits(1.0).A(x)
    one, other = Problem(y, InUnits(1.0)), Problem(1000 * y, InUnits(1000.0))
    torch.testing.assert_close(other.loss(guess), one.loss(guess))
    torch.testing.assert_close(other.residual_variance, one.residual_variance)
    torch.testing.assert_close(other.back_projection(guess), one.back_projection(guess), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.image, one.image, rtol=1e-3, atol=1e-4)
    length = torch.linalg.vector_norm(one.back_projection(guess).flatten(1), dim=1)
    assert bool((length < torch.linalg.vector_norm((x - guess).flatten(1), dim=1)).all()), "no longer than the error"


def test_what_was_found_of_the_unit_goes_with_the_rows():
    physics = InUnits(7.0)
    calls = []
    plain = physics.A
    physics.A = lambda x: calls.append(1) or plain(x)
    problem = Problem(physics.A(_smooth(3, 3, 16, 16)), physics)
    assert problem.image.shape == (3, 3, 16, 16) and problem.guessed.all()
    calls.clear()
    part = problem.take(torch.tensor([2, 0])).to("cpu")
    torch.testing.assert_close(part.scale, problem.scale[[2, 0]])
    torch.testing.assert_close(Problem.join([part, part.take(torch.tensor([1]))]).scale, problem.scale[[2, 0, 0]])
    assert not calls


def test_the_step_shrinks_where_noiseless_measurements_are_explained():
    x = _smooth(1, 3, 16, 16)
    physics = Projections(600, 768)
    problem = Problem(physics.A(x), physics)

    def length(error: float) -> float:
        guess = (x + error * _smooth(1, 3, 16, 16)).requires_grad_()
        (gradient,) = torch.autograd.grad(problem.loss(guess).sum(), guess)
        return float(gradient.norm())

    assert length(1e-4) < 0.1 * length(1e-1)


# -- lists of measurements ---------------------------------------------------------------------------------


class TensorList:
    """DeepInverse's, as far as it is read."""

    def __init__(self, x) -> None:
        self.x = list(x)

    def __getitem__(self, item):
        return self.x[item]


class Stacked:
    """A blur and a pooled image, as DeepInverse stacks operators."""

    def __init__(self) -> None:
        self.physics_list = [_noisy([0.1, 0.3]), Pool()]

    def A(self, x):
        return TensorList(part.A(x) for part in self.physics_list)

    def A_adjoint(self, y):
        return sum(part.A_adjoint(y[n]) for n, part in enumerate(self.physics_list))


def test_a_list_of_measurements_is_one_measurement():
    x = _smooth(2, 3, 32, 32).double()
    y, physics = flattened(Stacked().A(x), Stacked())
    assert y.shape == (2, 3 * 32 * 32 + 3 * 16 * 16)
    torch.testing.assert_close(physics.A(x), y)
    torch.testing.assert_close((physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum())
    expected = torch.tensor([0.1, 0.3]).double().square() * 4 / 5
    torch.testing.assert_close(Problem(y, physics).noise_variance, expected)
    torch.testing.assert_close(Problem(y, physics).take(torch.tensor([1])).noise_variance, expected[[1]])
    assert flattened(x, Stacked())[0] is x


def test_a_list_of_measurements_is_restored_each_image_for_itself(tiny_pipeline):
    x, physics = _smooth(2, 3, 32, 32), Stacked()
    physics.physics_list[0] = Blur(_filters(1))
    y = physics.A(x)
    options = {"solver": "latent-dps", "settings": Settings(steps=3)}
    both = tiny_pipeline(y, physics, ids=["a", "b"], **options)
    own = TensorList(part[1:] for part in y.x)
    (alone,) = tiny_pipeline.stream([Batch(["b"], own, physics)], **options)
    torch.testing.assert_close(alone.image, both.images[1], rtol=0, atol=1e-3)


# -- theirs and ours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("theirs_first", [True, False])
def test_theirs_and_ours_are_composed(theirs_first, tiny_pipeline):
    theirs, ours = Blur(_filters(1)), GaussianBlur([0.5, 2.0], noise_std=0.1)
    physics = Compose(theirs, ours) if theirs_first else Compose(ours, theirs)
    x = _smooth(2, 3, 32, 32)
    y = physics.A(x)
    torch.testing.assert_close(y, ours.A(theirs.A(x)) if theirs_first else theirs.A(ours.A(x)))
    v = _random(2, 3, 32, 32, seed=5)
    torch.testing.assert_close((y * v).sum(), (x * physics.A_adjoint(v)).sum())
    problem = Problem(y, physics)
    assert problem.linear and problem.noise_variance.tolist() == pytest.approx([0.01, 0.01] if theirs_first else [0, 0])
    rows = torch.tensor([1])
    torch.testing.assert_close(problem.take(rows).measure(x[rows]), y[rows])
    assert tiny_pipeline(physics(x), physics, settings=Settings(steps=3)).images.isfinite().all()


def test_a_composition_with_theirs_is_linear_only_if_both_are():
    class Square:
        def A(self, x):
            return x**2

    assert not is_linear(Compose(GaussianBlur(1.0), Square()))


def test_an_a_adjoint_of_a_nonlinear_physics_of_deepinverse_is_none():
    """PhaseRetrieval's is that of its linear part."""
    base = type("Physics", (), {"__module__": "deepinv.physics.forward", "A": lambda self, x: x})
    linear = type("LinearPhysics", (base,), {"__module__": "deepinv.physics.forward"})
    adjoint = {"A_adjoint": lambda self, y: y}
    assert not is_linear(type("PhaseRetrieval", (base,), adjoint)())
    assert is_linear(type("Blur", (linear,), adjoint)())
