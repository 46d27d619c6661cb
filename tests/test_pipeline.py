import copy

import pytest
import torch

from flashdiffusion import FlashPipeline, FromNoise, GaussianBlur, InputError, Operator, Settings
from flashdiffusion.physics import Mixed
from flashdiffusion.pipeline import Batch, Failed
from flashdiffusion.solvers import LatentDPS, Start, Transition

FEW = Settings(eta=0.5, correction=1.0, mixing="paper", steps=12)


def _measured(count: int = 4):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    physics = GaussianBlur(torch.linspace(0, 2, count), 0.05)
    return physics(x, generator), physics


@pytest.mark.parametrize("start", ["flash", "noise", "estimate"])
@pytest.mark.parametrize("max_in_flight", [1, 3, 16])
def test_an_image_depends_on_its_id_alone(tiny_pipeline, start, max_in_flight):
    y, physics = _measured()
    ids = ["a", "b", "c", "d"]
    together = tiny_pipeline(y, physics, ids=ids, start=start, settings=FEW, max_in_flight=4)
    rows = torch.tensor([2, 0])
    part = tiny_pipeline(
        y[rows], physics.take(rows), ids=["c", "a"], start=start, settings=FEW, max_in_flight=max_in_flight
    )
    torch.testing.assert_close(part.images, together.images[rows], atol=1e-4, rtol=0)
    assert torch.equal(part.nfe, together.nfe[rows])


def test_starts_make_the_steps_they_say(tiny_pipeline):
    y, physics = _measured()
    flash = tiny_pipeline(y, physics, settings=FEW)
    noise = tiny_pipeline(y, physics, settings=FEW, start="noise")
    estimate = tiny_pipeline(y, physics, settings=FEW, start="estimate", solver="prior")
    grid = tiny_pipeline.prior.schedule.grid(FEW.steps)
    severity = tiny_pipeline.severity(y, physics)
    assert torch.equal(flash.nfe, grid.match(severity.var))
    assert torch.equal(grid.times[flash.nfe], flash.start_step)
    assert noise.nfe.tolist() == [12] * 4 and noise.severity is None
    assert estimate.nfe.tolist() == [0] * 4
    decoded = tiny_pipeline.prior.decode(severity.z_hat).clamp(0, 1)
    torch.testing.assert_close(estimate.images, decoded, atol=1e-5, rtol=0)


def test_starts_of_two_grids_compare(tiny_pipeline):
    y, physics = _measured()
    full, coarse = (tiny_pipeline(y, physics, settings=Settings(steps=n), solver="prior") for n in (1000, 100))
    assert bool((full.start_step == full.nfe).all()) and bool((coarse.start_step == 10 * coarse.nfe).all())
    assert int((full.start_step - coarse.start_step).abs().max()) <= 10
    assert coarse.row(0)["start_step"] == int(coarse.start_step[0])


def test_cost_grows_with_the_steps(tiny_pipeline):
    y, physics = _measured(2)
    none = tiny_pipeline(y, physics, start="estimate", solver="prior").gflop
    few = tiny_pipeline(y, physics, start="noise", settings=FEW).gflop
    more = tiny_pipeline(y, physics, start="noise", settings=Settings(steps=24)).gflop
    decode = tiny_pipeline(y, physics, start="noise", solver="prior", settings=Settings(steps=12)).gflop
    assert bool((none < few).all())
    step = (more - few) / 12
    torch.testing.assert_close(few + 12 * step, more)
    # A guided step runs denoiser and decoder forward and backward; the prior alone the denoiser forward.
    assert bool((decode < few / 2).all())


def test_cost_knows_the_savings_of_the_gradient(tiny_pipeline):
    y, physics = _measured(1)
    costs = {
        jacobian: float(
            tiny_pipeline(y, physics, start="noise", settings=Settings(steps=4, jacobian=jacobian)).gflop[0]
        )
        for jacobian in (True, False)
    }
    assert costs[False] < 0.97 * costs[True]


class _NoDecode:
    """A prior whose decoder runs out of memory."""

    def __init__(self, prior):
        self._prior = prior

    def __getattr__(self, name):
        return getattr(self._prior, name)

    def decode(self, z):
        raise MemoryError


def test_images_that_cannot_be_decoded_are_failures(tiny_pipeline):
    y, physics = _measured(2)
    pipeline = copy.copy(tiny_pipeline)
    pipeline.prior = _NoDecode(tiny_pipeline.prior)
    batch = Batch(["a", "b"], y, physics, FEW)
    done = list(pipeline.stream([batch], solver="prior", start="estimate"))
    assert sorted((one.id, one.failed, one.gflop) for one in done) == [
        ("a", "out of memory, even alone", 0.0),
        ("b", "out of memory, even alone", 0.0),
    ]


def test_a_stream_gives_each_image_once_and_names_those_that_failed(tiny_pipeline):
    y, physics = _measured()
    broken = y.clone()
    broken[1] = float("nan")
    batches = [Batch(list("abcd"), broken, physics, FEW), Batch(["e"], y[:1], GaussianBlur([1.0, 2.0][:1]), FEW)]
    done = {one.index: one for one in tiny_pipeline.stream(batches, max_in_flight=2)}
    assert [done[i].id for i in range(5)] == list("abcde")
    assert {i: one.failed for i, one in done.items() if one.failed} == {
        1: "NaN or infinite values in the measurement; expected finite numbers"
    }
    expected = tiny_pipeline(y, physics, ids=list("abcd"), settings=FEW)
    for i in (0, 2, 3):
        torch.testing.assert_close(done[i].image, expected.images[i], atol=1e-4, rtol=0)


def test_objects_serve_as_well_as_names(tiny_pipeline):
    y, physics = _measured(2)
    transition = Transition(tiny_pipeline.prior.schedule.grid(12), 1.0)
    named = tiny_pipeline(y, physics, start="noise", settings=FEW)
    given = tiny_pipeline(y, physics, start=FromNoise(), solver=LatentDPS(tiny_pipeline.prior, transition, 0.5))
    assert torch.equal(named.images, given.images)


def test_saves_and_loads(tiny_pipeline, tmp_path):
    y, physics = _measured(2)
    tiny_pipeline.save_pretrained(tmp_path / "full")
    again = FlashPipeline.from_pretrained(tmp_path / "full")
    expected = tiny_pipeline(y, physics, settings=FEW)
    assert torch.equal(again(y, physics, settings=FEW).images, expected.images)
    assert again.sample_size == tiny_pipeline.sample_size
    tiny_pipeline.save_pretrained(tmp_path / "half", dtype=torch.float16)
    half = FlashPipeline.from_pretrained(tmp_path / "half")
    assert half.prior.dtype == torch.float32
    torch.testing.assert_close(half.severity(y).var, tiny_pipeline.severity(y).var, rtol=0.02, atol=0)
    assert tiny_pipeline.prior.dtype == torch.float32, "saving in half precision leaves the pipeline as it was"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_schedule_exact(tiny_pipeline, dtype):
    half = copy.deepcopy(tiny_pipeline).to(dtype=dtype)
    assert half.prior.dtype == dtype
    assert torch.equal(half.prior.abar, tiny_pipeline.prior.abar)
    assert torch.equal(half.prior.autoencoder.gain, tiny_pipeline.prior.autoencoder.gain)
    y, physics = _measured(2)
    expected = tiny_pipeline(y, physics, start="noise", settings=FEW).images
    restored = half(y, physics, start="noise", settings=FEW).images
    assert restored.dtype == torch.float32
    assert float((restored - expected).abs().mean()) < 0.02
    assert half.severity(y).var.dtype == torch.float32


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # torch.compile's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_networks_give_the_same_images(tiny_pipeline):
    y, physics = _measured()
    expected = tiny_pipeline(y, physics, settings=FEW, max_in_flight=3)
    compiled = copy.deepcopy(tiny_pipeline).compile(backend="eager")
    got = compiled(y, physics, settings=FEW, max_in_flight=3)
    torch.testing.assert_close(got.images, expected.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.gflop, expected.gflop)


class _Travelling:
    """A physics that records where it was moved."""

    def __init__(self) -> None:
        self.moves: list[object] = []

    def A(self, x):
        return x

    def to(self, device):
        self.moves.append(device)
        return self


def test_moves_the_physics_to_the_models_device(tiny_pipeline):
    physics = _Travelling()
    tiny_pipeline(_measured(1)[0], physics, settings=FEW)
    assert physics.moves and set(physics.moves) == {tiny_pipeline.prior.device}


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(1, 2, 32, 32), "expected \\(B, 3, H, W\\)"),
        (torch.zeros(1, 3, 32, 7), "expected at least 8 pixels a side"),
        (torch.full((1, 3, 32, 32), float("nan")), "NaN"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "expected floats"),
        (torch.full((1, 3, 32, 32), 200.0), "expected the \\[0, 1\\] scale"),
    ],
)
def test_refuses_what_is_no_measurement(tiny_pipeline, y, message):
    with pytest.raises(InputError, match=message):
        tiny_pipeline(y, GaussianBlur([1.0]))


def test_refuses_unknown_names_and_missing_parts(tiny_pipeline):
    y, physics = _measured(1)
    with pytest.raises(InputError, match="latent-dps"):
        tiny_pipeline(y, physics, solver="latentdps")
    with pytest.raises(InputError, match="flash"):
        tiny_pipeline(y, physics, start="flsh")
    with pytest.raises(InputError, match="one per image"):
        tiny_pipeline(y, physics, ids=["a", "b"])
    with pytest.raises(InputError, match="parameters for 2 images; y has 1"):
        tiny_pipeline(y, GaussianBlur([1.0, 2.0]))
    with pytest.raises(InputError, match="max_in_flight"):
        tiny_pipeline(y, physics, max_in_flight=0)
    with pytest.raises(InputError, match="needs a severity encoder"):
        FlashPipeline(tiny_pipeline.prior)(y, physics, start="flash")


def test_every_image_of_every_batch_comes_out_whatever_its_start(tiny_pipeline):
    y = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = [Batch([f"{b}-{n}" for n in range(4)], y, GaussianBlur([1.0] * 4)) for b in range(5)]
    for options in (
        {"start": "estimate", "solver": "prior"},
        {"start": "regression", "solver": "prior"},
        {"start": "ccdf", "settings": Settings(start_step=0)},
    ):
        for max_in_flight in (1, 3, 64):
            ids = [one.id for one in tiny_pipeline.stream(batches, max_in_flight=max_in_flight, **options)]
            assert sorted(ids) == sorted(id for batch in batches for id in batch.ids), options


class _Failing:
    """A user's physics whose method `where` raises `error` for the images marked as bad."""

    def __init__(self, bad, where, error):
        self.bad, self.where, self.error = bad, where, error

    def _raise(self, where):
        if where == self.where and bool(self.bad.any()):
            raise self.error

    def A(self, x):
        self._raise("A")
        return x

    def A_adjoint(self, y):
        self._raise("A_adjoint")
        return y

    def take(self, rows):
        taken = _Failing(self.bad[rows], self.where, self.error)
        taken._raise("take")
        return taken

    def to(self, device):
        self._raise("to")
        return self


@pytest.mark.parametrize(
    "error", [ValueError("odd"), TypeError("odd"), ZeroDivisionError("odd"), AssertionError("odd")]
)
@pytest.mark.parametrize("where", ["A", "A_adjoint", "take", "to"])
def test_whatever_a_physics_raises_fails_its_image_alone(tiny_pipeline, where, error):
    y, _ = _measured()
    physics = _Failing(torch.tensor([False, False, True, False]), where, error)
    done = {one.id: one.failed for one in tiny_pipeline.stream([Batch(list("abcd"), y, physics, FEW)])}
    expected = f"physics _Failing failed: {type(error).__name__}: odd"
    assert done == {"a": None, "b": None, "c": expected, "d": None}


def test_a_physics_that_gives_no_tensor_is_named(tiny_pipeline):
    class Numpy:
        def A(self, x):
            return x.detach().numpy()

    with pytest.raises(InputError, match="physics Numpy gives a ndarray; expected a tensor"):
        tiny_pipeline(_measured(1)[0], Numpy(), settings=FEW)


def test_what_a_source_of_batches_raises_comes_after_the_images_before_it(tiny_pipeline):
    y, physics = _measured()
    for options in ({}, {"start": "estimate", "solver": "prior"}, {"start": "regression", "solver": "prior"}):

        def source():
            yield Batch(list("abcd"), y, physics, FEW)
            yield Batch(list("efgh"), y, physics, FEW)
            raise KeyError("no more files")

        given = []
        with pytest.raises(KeyError, match="no more files"):
            for one in tiny_pipeline.stream(source(), max_in_flight=2, **options):
                given.append(one.id)
        assert sorted(given) == list("abcdefgh"), options


class _BadBackward(torch.autograd.Function):
    """The identity, whose derivative is no better than what a user may write."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise KeyError("no derivative")


class _Underivable:
    A = staticmethod(_BadBackward.apply)


@pytest.mark.parametrize("solver", ["latent-dps", "resample"])
def test_a_derivative_that_raises_fails_its_images_alone(tiny_pipeline, solver):
    y, physics = _measured(2)
    few = Settings(steps=4)
    batches = [Batch(list("ab"), y, _Underivable(), few), Batch(list("cd"), y, physics, few)]
    done = {one.id: one.failed for one in tiny_pipeline.stream(batches, solver=solver, start="noise")}
    assert done["c"] is done["d"] is None
    assert all("KeyError" in done[name] and "no derivative" in done[name] for name in "ab")


def test_what_a_batch_carries_comes_back_with_each_result_and_each_failure(tiny_pipeline):
    y, physics = _measured(2)
    broken = y.clone()
    broken[1] = float("nan")
    source = [
        Failed("unread", "no such file", extra=0),
        Batch(list("ab"), broken, physics, FEW, extra=[1, 2]),
        Failed("unread too", "no such file", extra=3),
    ]
    done = {one.id: (one.index, one.extra, one.failed) for one in tiny_pipeline.stream(source)}
    assert done["unread"] == (0, 0, "no such file") and done["unread too"] == (3, 3, "no such file")
    assert done["a"] == (1, 1, None) and done["b"][:2] == (2, 2) and "NaN" in done["b"][2]


class _Asked(torch.nn.Module):
    """Counts the images that a network is shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, x, *known):
        self.images += len(x)
        return self.network(x, *known)


def test_samples_share_one_severity_pass(tiny_pipeline):
    y, physics = _measured(2)
    pipeline = copy.copy(tiny_pipeline)
    pipeline.severity_encoder = _Asked(tiny_pipeline.severity_encoder)
    restored = pipeline(y, physics, settings=FEW, num_samples=3)
    assert restored.samples.shape[:2] == (3, 2)
    assert pipeline.severity_encoder.images == 2


@pytest.mark.parametrize("max_in_flight", [None, 2])
@pytest.mark.parametrize("method", ["latent-dps", "flash(psld)", "ae", "swinir"])
def test_no_evaluation_is_made_for_the_count_alone(tiny_pipeline, method, max_in_flight):
    y, physics = _measured(2)
    pipeline = copy.copy(tiny_pipeline)
    pipeline.prior = copy.copy(tiny_pipeline.prior)
    seen = []
    pipeline.prior.denoise = lambda z, i: seen.extend(i.tolist()) or tiny_pipeline.prior.denoise(z, i)
    restored = pipeline(y, physics, method=method, settings=FEW, max_in_flight=max_in_flight)
    assert len(seen) == int(restored.nfe.sum())
    assert bool((restored.gflop > 0).all())


class _Rowwise:
    """A user's own physics with parameters of each image, that knows nothing of being joined."""

    def __init__(self, factors):
        self.factors = factors

    def A(self, x):
        return x * self.factors.view(-1, 1, 1, 1)

    def take(self, rows):
        return _Rowwise(self.factors[rows])


def test_a_users_own_rows_are_never_taken_for_those_of_another_batch(tiny_pipeline):
    y, _ = _measured(2)
    shared = _Rowwise(torch.tensor([0.5, 1.0]))
    together = list(tiny_pipeline.stream([Batch(["a", "b"], y, shared, FEW), Batch(["c", "d"], y, shared, FEW)]))
    for batch in (["a", "b"], ["c", "d"]):
        alone = tiny_pipeline(y, shared, ids=batch, settings=FEW)
        for one in together:
            if one.id in batch:
                torch.testing.assert_close(one.image, alone.images[batch.index(one.id)], atol=1e-4, rtol=0)


def test_a_mixture_of_one_kind_keeps_its_order(tiny_pipeline):
    y, physics = _measured(2)
    swapped = Mixed([(torch.tensor([1, 0]), physics.take(torch.tensor([1, 0])))])
    expected = tiny_pipeline(y, physics, settings=FEW)
    torch.testing.assert_close(tiny_pipeline(y, swapped, settings=FEW).images, expected.images, atol=1e-4, rtol=0)


class _Rule:
    """A start rule that gives whatever it is told to."""

    def __init__(self, k, image=None):
        self.k, self.image = k, image

    def __call__(self, problem, prior, grid, noise):
        if self.k is None:
            raise ValueError("a fault of the rule")
        return Start(noise, torch.full((len(problem),), self.k), image=self.image)


def test_an_image_of_a_start_counts_where_there_are_no_steps_and_is_checked(tiny_pipeline):
    y, physics = _measured(2)
    image = torch.rand(2, 3, 32, 32)
    finished = tiny_pipeline(y, physics, start=_Rule(0, image), settings=FEW)
    assert torch.equal(finished.images, image) and finished.nfe.tolist() == [0, 0]
    stepped = tiny_pipeline(y, physics, start=_Rule(2, image), settings=FEW)
    assert not torch.equal(stepped.images, image) and stepped.nfe.tolist() == [2, 2]
    image[1] = float("nan")
    with pytest.warns(UserWarning, match="diverged"):
        assert list(tiny_pipeline(y, physics, start=_Rule(0, image), settings=FEW).failed) == [1]


def test_a_start_off_the_grid_fails_its_images_and_a_rule_that_raises_comes_last(tiny_pipeline):
    y, physics = _measured(2)
    with pytest.raises(InputError, match="expected 0 to 12"):
        tiny_pipeline(y, physics, start=_Rule(13), settings=FEW)
    rule = _Rule(1)

    def source():
        yield Batch(["a", "b"], y, physics, FEW)
        rule.k = None
        yield Batch(["c", "d"], y, physics, FEW)

    given = []
    with pytest.raises(ValueError, match="a fault of the rule"):
        for one in tiny_pipeline.stream(source(), start=rule):
            given.append(one.id)
    assert sorted(given) == ["a", "b"]


def test_no_images_are_refused(tiny_pipeline):
    with pytest.raises(InputError, match="expected at least one image"):
        tiny_pipeline(torch.zeros(0, 3, 32, 32), GaussianBlur(1.0))


def test_arithmetic_of_each_physics_is_its_own(tiny_pipeline):
    """Two functions in one stream, in both orders."""
    y, _ = _measured(1)
    weight = torch.randn(3, 3, 9, 9) / 100
    small, large = Operator(lambda x: x), Operator(lambda x: torch.nn.functional.conv2d(x, weight, padding=4))
    found = []
    for order in ((small, large), (large, small)):
        batches = [Batch([str(id(one))], y, one, FEW) for one in order]
        found.append({one.id: one.gflop for one in tiny_pipeline.stream(batches, start="noise")})
    assert found[0] == pytest.approx(found[1])
    assert found[0][str(id(large))] > found[0][str(id(small))]
