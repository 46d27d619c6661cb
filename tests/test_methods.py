import copy
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from flashdiffusion.errors import CheckpointError, InputError, UntunedWarning
from flashdiffusion.methods import (
    DEFAULT_METHOD,
    SOLVERS,
    STARTS,
    Settings,
    all_settings,
    check_used,
    default_solver,
    make_solver,
    make_start,
    method_name,
    methods,
    parse_method,
    parse_settings,
    settings_of,
    tuning_grid,
)
from flashdiffusion.physics import JPEG, TASKS, Compose, GaussianBlur, concatenate
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.presets import PUBLISHED, Preset, Presets, preset_for, published_for
from flashdiffusion.priors import IdentityAutoencoder, PatchAutoencoder
from flashdiffusion.solvers import (
    GMLDPS,
    PSLD,
    FromNoise,
    Gradient,
    Guided,
    LatentDPS,
    Start,
    register_solver,
    register_start,
    setting,
)
from toy import ToyPrior


def test_flash_differs_from_its_baseline_in_the_start_only():
    assert parse_method("latent-dps") == ("noise", "latent-dps")
    assert parse_method("Flash( Latent-DPS )") == ("flash", "latent-dps")
    assert parse_method("flash") == parse_method(DEFAULT_METHOD) == ("flash", "proximal")
    assert parse_method("ae") == ("estimate", "prior")


@pytest.mark.parametrize(
    ("start", "given", "solver"),
    [
        ("flash", (), "proximal"),
        ("flash", ("quality", "trust", "correction", "steps"), "proximal"),
        ("flash", ("steps", "guidance"), "latent-dps"),
        ("flash", ("delta",), "latent-dps"),
        ("flash", ("start_step",), "proximal"),
        ("noise", (), "latent-dps"),
        ("ccdf", ("start_step",), "latent-dps"),
        (FromNoise(), (), "latent-dps"),
    ],
)
def test_the_default_solver_follows_from_the_start_and_the_settings_given(start, given, solver):
    assert default_solver(start, given) == solver


def test_a_setting_that_is_not_used_is_named_with_the_methods_that_use_it():
    check_used(["guidance", "steps"], "flash", "latent-dps")
    with pytest.raises(InputError, match=r"^gamma: not used by method here, which takes trust, .* used by resample"):
        check_used(["gamma", "steps"], "flash", "proximal", "here")
    with pytest.raises(InputError, match=r"^trust, gamma: not used by method psld, which takes [^;]*$"):  # by none
        check_used(["trust", "gamma"], "noise", "psld")


@pytest.mark.parametrize(
    ("name", "near"),
    [("flash(latentdps)", "flash\\(latent-dps\\)"), ("x", "known: .* in all: the table in docs/methods.md")],
)
def test_unknown_methods_name_the_nearest(name, near):
    with pytest.raises(InputError, match=near) as error:
        parse_method(name)
    assert str(error.value).count(",") <= 6, "not all thirty"


def test_names_of_methods_and_their_parts_are_one_to_one():
    pairs = {name: parse_method(name) for name in methods()}
    assert len(set(pairs.values())) == len(methods())
    for name, (start, solver) in pairs.items():
        assert start in STARTS and solver in SOLVERS
        assert method_name(start, solver) == name


def test_the_papers_methods_are_there():
    assert parse_method("ccdf(dps)") == ("ccdf", "dps")
    assert parse_method("swinir") == ("regression", "prior")
    assert parse_method("inversion(psld)") == ("inversion", "psld")
    for solver in ("latent-dps", "psld", "gml-dps", "resample"):
        assert {solver, f"flash({solver})"} <= set(methods())


PRESETS = FlashPipeline.presets_of()


def _tuned(task, method, steps=None):
    return Settings(**PRESETS.table[task, method, steps].settings)


def test_a_preset_is_the_nearest_that_is_known():
    assert preset_for(PRESETS, "gaussian-blur", "flash", "latent-dps") == _tuned("gaussian-blur", "flash(latent-dps)")
    assert preset_for(PRESETS, GaussianBlur([1.0]), "noise", "latent-dps") == _tuned("gaussian-blur", "latent-dps")
    assert preset_for(PRESETS, object(), "noise", "latent-dps") == _tuned("gaussian-blur", "latent-dps")
    assert preset_for(PRESETS, "jpeg", "inversion", "latent-dps") == _tuned("gaussian-blur", "flash(latent-dps)")
    for task in TASKS:
        for name in methods():
            steps = preset_for(PRESETS, task, *parse_method(name)).steps
            assert steps is None or name.endswith("(proximal)")  # whose presets say how many levels it has
            assert preset_for(PRESETS, task, *parse_method(name), steps=77).steps == 77


def test_a_model_without_presets_takes_what_was_published_or_the_defaults():
    assert preset_for(Presets(), "gaussian-blur", "flash", "latent-dps") == Settings()
    published = Presets.published("FFHQ")
    assert preset_for(published, "random-inpainting", "noise", "latent-dps").guidance == 7
    assert preset_for(published, "gaussian-blur", "flash", "gml-dps") == Settings(eta=3, omega=0.05, correction=1.2)
    for presets, message in ((Presets(), "the solvers' defaults"), (published, "published")):
        with pytest.warns(UntunedWarning, match=message):
            presets.warn()


def test_a_composition_takes_the_settings_of_the_first_part_that_has_some():
    composed = Compose(JPEG([50]), GaussianBlur([1.0]))
    assert preset_for(PRESETS, composed, "flash", "psld") == _tuned("gaussian-blur", "flash(psld)")
    assert preset_for(PRESETS, "jpeg+random-inpainting", "flash", "psld") == _tuned("random-inpainting", "flash(psld)")
    # But what rounds goes before what does not.
    short = PRESETS.with_preset(("jpeg", "flash(psld)", None), Preset({"eta": 7.0}))
    for task in (Compose(GaussianBlur([1.0]), JPEG([50])), "gaussian-blur+jpeg", composed):
        assert preset_for(short, task, "flash", "psld") == Settings(eta=7.0)


def test_settings_live_in_the_models_folder(tiny_pipeline, tmp_path):
    physics = GaussianBlur([1.0])
    tiny_pipeline.save_pretrained(tmp_path / "again")
    again = FlashPipeline.from_pretrained(tmp_path / "again")
    assert again.presets == tiny_pipeline.presets == PRESETS
    merged = again.settings_for(physics, "flash", "latent-dps", Settings(eta=4))
    assert (merged.eta, merged.correction) == (4, 1.0)
    again.presets = again.presets.with_preset(("gaussian-blur", "flash(psld)", None), Preset({"eta": 7.0}))
    again.save_pretrained(tmp_path / "third")
    third = FlashPipeline.from_pretrained(tmp_path / "third")
    assert third.settings_for(physics, "flash", "psld") == Settings(eta=7.0)
    (tmp_path / "third" / "presets.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="no list of presets"):
        FlashPipeline.from_pretrained(tmp_path / "third")


def test_a_model_that_is_untuned_is_said_to_be_once(tiny_pipeline, recwarn):
    pipeline = FlashPipeline(tiny_pipeline.prior)
    physics = GaussianBlur([1.0])
    y = torch.rand(1, 3, 16, 16)
    with pytest.warns(UntunedWarning, match="tune --save"):
        pipeline.settings_for(physics, "noise", "latent-dps")
    recwarn.clear()
    pipeline(y, physics, start="noise", settings=Settings(steps=1))
    pipeline.settings_for(physics, "noise", "latent-dps")
    assert not recwarn.list


def test_images_of_a_mixture_have_the_settings_of_their_own_part(tiny_pipeline):
    blur, jpeg = GaussianBlur([1.0, 1.0]), JPEG([50])
    mixed = concatenate([blur, jpeg])
    y = mixed(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    pipeline = FlashPipeline(
        tiny_pipeline.prior,
        presets=Presets(
            {
                ("gaussian-blur", "latent-dps", None): Preset({"steps": 2}),
                ("jpeg", "latent-dps", None): Preset({"steps": 3}),
            }
        ),
    )
    together = pipeline(y, mixed, start="noise", ids=["a", "b", "c"])
    assert together.nfe.tolist() == [2, 2, 3]
    alone = pipeline(y[2:], jpeg, start="noise", ids=["c"])
    torch.testing.assert_close(together.images[2:], alone.images)


def test_published_settings_are_the_papers_table():
    assert PUBLISHED["random-inpainting", "flash(psld)", "FFHQ"].omega == 0.5
    assert PUBLISHED["gaussian-blur-fixed", "flash(resample)", "FFHQ"].gamma == 2000
    assert {one.proximal for one in PUBLISHED.values()} == {0.0}
    assert PUBLISHED["nonlinear-blur", "ccdf(latent-dps)", "FFHQ"].start_step == 200
    assert not any(task == "nonlinear-blur" and "psld" in method for task, method, _ in PUBLISHED)
    for task, method, _ in [*PUBLISHED, *PRESETS.table]:
        assert task in TASKS and method in methods()


class _Prior:
    """A prior as far as the solvers' constructors look at it."""

    def __init__(self, autoencoder):
        self.autoencoder, self.schedule = autoencoder, ToyPrior().schedule


def test_settings_reach_the_solver():
    prior = _Prior(object())
    settings = Settings(eta=3.0, omega=0.7, gamma=11.0, proximal=0.2, steps=50, delta=0.5)
    psld = make_solver("psld", prior, settings)
    assert (type(psld), psld.guidance, psld.omega, len(psld.grid), psld.transition.delta) == (PSLD, 3.0, 0.7, 50, 0.5)
    gml = make_solver("gml-dps", prior, settings)
    assert (type(gml), gml.omega) == (GMLDPS, 0.7)
    resample = make_solver("resample", prior, settings)
    assert (resample.gamma, resample.proximal) == (11.0, 0.2)
    assert make_solver("prior", prior, settings).guidance == 0


def test_the_settings_of_a_method_are_those_that_it_checks(tiny_pipeline):
    cannot_be = {
        "guidance": -1.0,
        "omega": -1.0,
        "gamma": -1.0,
        "proximal": -1.0,
        "correction": -1.0,
        "mixing": "none",
        "start_step": -1,
        "steps": 0,
        "delta": 2.0,
        "guide_every": 0,
        "distilled": "none",
        "trust": 0.0,
        "error_share": -1.0,
        "decoder_error": -1.0,
        "fit_iterations": 0,
        "quality": "none",
    }
    assert cannot_be.keys() | {"jacobian", "refine", "correct_physics"} == set(all_settings())
    for name in methods():
        if name == "denoise":  # not with these latents
            continue
        start, solver = parse_method(name)
        prior = _Prior(IdentityAutoencoder() if solver == "dps" else PatchAutoencoder())
        refused = set()
        for varied, value in cannot_be.items():
            settings = Settings(**{varied: value})
            try:
                make_solver(solver, prior, settings)
                make_start(
                    start, tiny_pipeline.prior, tiny_pipeline.severity_encoder, settings, tiny_pipeline.regressor
                )
            except InputError:
                refused.add(varied)
        if name in {"ae", "denoise", "swinir"}:  # their time grid is made and never walked
            refused -= {"steps", "delta"}
        if getattr(make_solver(solver, prior, Settings(jacobian=False)), "gradient", Gradient()).jacobian is False:
            refused.add("jacobian")
        refused |= {"refine", "correct_physics"} & STARTS[start].settings.keys()  # yes or no, like jacobian
        if name in {"ae", "denoise", "swinir"}:
            refused.discard("jacobian")
        assert settings_of(start, solver).keys() == refused, name


def test_settings_of_what_is_unknown():
    with pytest.raises(InputError, match="unknown start 'flahs'; did you mean flash"):
        settings_of("flahs", "psld")
    with pytest.raises(InputError, match="unknown solver 'pslt'; did you mean psld"):
        settings_of("flash", "pslt")


def test_dps_is_for_pixels():
    with pytest.raises(InputError, match="dps works on pixels"):
        make_solver("dps", _Prior(object()), Settings())
    assert type(make_solver("dps", _Prior(IdentityAutoencoder()), Settings())) is LatentDPS
    with pytest.raises(InputError, match="psld works on latents and this model on pixels; take dps"):
        make_solver("psld", _Prior(IdentityAutoencoder()), Settings())


def test_starts_say_which_network_is_missing():
    for name, message in (
        ("flash", "severity encoder"),
        ("ccdf", "this model has neither"),
        ("regression", "regressor"),
    ):
        with pytest.raises(InputError, match=message):
            make_start(name, _Prior(object()), None, Settings())
    assert isinstance(make_start("noise", _Prior(object()), None, Settings()), FromNoise)


def test_what_was_not_published_is_said():
    assert published_for("random-inpainting", "flash", "psld", "FFHQ").omega == 0.5
    with pytest.raises(InputError, match="nothing published for nonlinear-blur, flash\\(psld\\), FFHQ; known"):
        published_for("nonlinear-blur", "flash", "psld", "FFHQ")


def test_no_steps_are_refused_and_not_taken_for_all():
    assert preset_for(PRESETS, "gaussian-blur", "flash", "latent-dps", steps=0).steps == 0
    with pytest.raises(InputError, match="steps is 0"):
        make_solver("latent-dps", _Prior(object()), Settings(steps=0))


def test_all_settings_say_what_they_are():
    known = all_settings()
    assert [(known[name].type, known[name].default) for name in ("guidance", "steps")] == [(float, 1.0), (int, None)]
    assert all(one.help for one in known.values()) and known.keys() >= {"omega", "correction", "delta"}


def test_the_papers_name_of_a_setting_is_an_alias(tmp_path):
    tuned = Settings(eta=8.0)
    assert (
        dict(tuned) == {"guidance": 8.0}
        and tuned == Settings(guidance=8.0)
        and all_settings()["guidance"].alias == "eta"
    )
    assert tuned.eta == tuned["eta"] == tuned.guidance == 8.0 and Settings().eta == 1.0 and "eta" in tuned
    assert dict(tuned | {"eta": 4}) == {"guidance": 4} and dict(Settings(guidance=2) | tuned) == {"guidance": 8.0}
    assert parse_settings("eta=1,2 omega=0.1") == {"guidance": [1.0, 2.0], "omega": [0.1]}
    (tmp_path / "presets.json").write_text(
        '[{"task": "jpeg", "method": "flash(latent-dps)", "steps": null, "settings": {"eta": 3.0}}]'
    )
    assert preset_for(Presets.read(tmp_path), "jpeg", "flash", "latent-dps") == {"guidance": 3.0}
    with pytest.raises(InputError, match="eta is guidance, and both are given"):
        Settings(guidance=1, eta=2)
    with pytest.raises(InputError, match="guidance is given twice"):
        parse_settings("eta=1 guidance=2")


def test_settings_are_values_that_are_joined_and_sent():
    tuned = Settings(eta=8.0, correction=0.0)
    assert tuned | Settings(eta=4) == Settings(eta=4, correction=0.0) and tuned.omega == 0.05
    assert len({tuned, Settings(correction=0.0, eta=8.0)}) == 1 and pickle.loads(pickle.dumps(tuned)) == tuned
    assert copy.deepcopy(tuned) == tuned
    with pytest.raises(InputError, match="unknown setting 'guidence'; did you mean guidance"):
        Settings(guidence=1)
    with pytest.raises(AttributeError, match="unknown setting 'etta'; did you mean"):
        _ = tuned.etta
    with pytest.raises(AttributeError, match="settings are not changed"):
        tuned.eta = 3


@pytest.fixture
def own():
    """A solver and a start rule of a user's own file."""

    @register_solver("shrinking")
    @dataclass(frozen=True)
    class Shrinking(Guided):
        shrinkage: float = setting(0.5, "Factor on the latents.", (0.25, 0.5))

        terms = ()

        def step(self, z, k, problem, noise):
            return replace(super().step(z, k, problem, noise), z=self.shrinkage * z)

    @register_start("halfway")
    @dataclass(frozen=True)
    class Halfway:
        height: float = setting(0.5, "Part of the grid.")

        def __call__(self, problem, prior, grid, noise):
            return Start(torch.ones_like(noise), torch.full((len(problem),), int(self.height * len(grid))))

    yield Shrinking, Halfway
    del SOLVERS["shrinking"], STARTS["halfway"]


@pytest.mark.filterwarnings("ignore:images of .* are far from")
def test_a_users_solver_and_start_work_by_name(own, tiny_pipeline):
    assert parse_method("halfway(shrinking)") == ("halfway", "shrinking") and "flash(shrinking)" in methods()
    assert settings_of("halfway", "shrinking").keys() >= {"shrinkage", "height", "steps"}
    assert tuning_grid(*parse_method("halfway(shrinking)")) == {"shrinkage": [0.25, 0.5]}
    assert all_settings()["shrinkage"].tune == (0.25, 0.5)
    settings = Settings(steps=4, shrinkage=0.25, height=0.75)
    solver, start = tiny_pipeline.method("shrinking", "halfway", settings)
    assert (solver.shrinkage, start.height) == (0.25, 0.75) and solver.gradient == Gradient()
    physics = GaussianBlur([1.0])
    y = physics(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    restored = tiny_pipeline(y, physics, solver="shrinking", start="halfway", settings=settings)
    assert restored.nfe.tolist() == [3]
    shape = tiny_pipeline.prior.latent_shape((16, 16))
    expected = tiny_pipeline.prior.decode(torch.full((1, *shape), 0.25**3)).clamp(0, 1)
    torch.testing.assert_close(restored.images, expected)


def test_a_registration_that_cannot_be_is_refused(own):
    @dataclass(frozen=True)
    class Other(Guided):
        guidance: str = setting("x", "Not a step size.")

    with pytest.raises(InputError, match="the name 'psld' is taken by PSLD"):
        register_solver("psld")(Other)
    with pytest.raises(InputError, match="setting guidance of other is of type str and elsewhere of float"):
        register_solver("other")(Other)

    @dataclass(frozen=True)
    class Ambiguous(Guided):
        eta: float = setting(0.5, "What is already the name of another setting.")

    with pytest.raises(InputError, match="setting eta of ambiguous is elsewhere guidance; choose another name"):
        register_solver("ambiguous")(Ambiguous)
    with pytest.raises(InputError, match="no dataclass"):
        register_solver("other")(type("Plain", (), {}))
    with pytest.raises(InputError, match="expected lower-case"):
        register_start("My Start")(Other)


def test_a_task_takes_the_settings_of_the_operator_that_it_draws():
    presets = FlashPipeline.presets_of()
    assert preset_for(presets, "random-inpainting-any", "flash", "resample") == preset_for(
        presets, "random-inpainting", "flash", "resample"
    )
    own = Presets({("jpeg", "flash(latent-dps)", None): Preset({"eta": 2.5})})
    assert preset_for(own, "gaussian-blur+jpeg", "flash", "latent-dps") == {"guidance": 2.5}


def test_presets_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    Presets({("jpeg", "flash(latent-dps)", None): Preset({"eta": 2.5})}).write(tmp_path)
    before = (tmp_path / "presets.json").read_bytes()
    write = Path.write_bytes

    def full(self, data):
        write(self, data[:3])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        Presets({}).write(tmp_path)
    assert (tmp_path / "presets.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_quality_scales_the_levels_of_a_preset_and_those_that_are_given(tiny_pipeline):
    def levels(**given):
        return len(make_solver("proximal", tiny_pipeline.prior, Settings(**given)).grid)

    assert levels(quality="best") == 2 * levels() == 36
    assert levels(quality="fast", steps=12) == 6
    assert levels(quality="fast", steps=1) == 1
    for steps in (12.5, -4, 0):
        with pytest.raises(InputError, match=f"steps is {steps}; expected at least 1"):
            levels(steps=steps, quality="fast")
