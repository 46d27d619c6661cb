from dataclasses import fields

import pytest

from flashdiffusion.errors import InputError
from flashdiffusion.methods import (
    METHODS,
    SOLVERS,
    STARTS,
    Settings,
    make_solver,
    make_start,
    method_name,
    parse_method,
    settings_of,
)
from flashdiffusion.physics import TASKS, GaussianBlur
from flashdiffusion.presets import PRESETS, PUBLISHED, preset_for, published_for
from flashdiffusion.priors import IdentityAutoencoder
from flashdiffusion.solvers import GMLDPS, PSLD, FromNoise, Gradient, LatentDPS
from toy import ToyPrior


def test_flash_differs_from_its_baseline_in_the_start_only():
    assert parse_method("latent-dps") == ("noise", "latent-dps")
    assert parse_method("Flash( Latent-DPS )") == ("flash", "latent-dps")
    assert parse_method("flash") == ("flash", "latent-dps")
    assert parse_method("ae") == ("estimate", "prior")


@pytest.mark.parametrize(("name", "near"), [("flash(latentdps)", "flash\\(latent-dps\\)"), ("x", "known: ")])
def test_unknown_methods_name_the_nearest(name, near):
    with pytest.raises(InputError, match=near):
        parse_method(name)


def test_names_of_methods_and_their_parts_are_one_to_one():
    pairs = {name: parse_method(name) for name in METHODS}
    assert len(set(pairs.values())) == len(METHODS)
    for name, (start, solver) in pairs.items():
        assert start in STARTS and solver in SOLVERS
        assert method_name(start, solver) == name


def test_the_papers_methods_are_there():
    assert parse_method("ccdf(dps)") == ("ccdf", "dps")
    assert parse_method("swinir") == ("regression", "prior")
    assert parse_method("inversion(psld)") == ("inversion", "psld")
    for solver in ("latent-dps", "psld", "gml-dps", "resample"):
        assert {solver, f"flash({solver})"} <= set(METHODS)


def test_a_preset_is_the_nearest_that_is_known():
    assert (
        preset_for("gaussian-blur", "flash", "latent-dps")
        == PRESETS["gaussian-blur", "flash(latent-dps)", None].settings
    )
    assert (
        preset_for(GaussianBlur([1.0]), "noise", "latent-dps") == PRESETS["gaussian-blur", "latent-dps", None].settings
    )
    assert preset_for(object(), "noise", "latent-dps") == PRESETS["gaussian-blur", "latent-dps", None].settings
    assert preset_for("jpeg", "inversion", "latent-dps") == preset_for("gaussian-blur", "flash", "latent-dps")
    for task in TASKS:
        for name in METHODS:
            settings = preset_for(task, *parse_method(name))
            assert settings.steps == (500 if "resample" in name else None)
            assert preset_for(task, *parse_method(name), steps=77).steps == 77


def test_published_settings_are_the_papers_table():
    assert PUBLISHED["random-inpainting", "flash(psld)", "FFHQ"].omega == 0.5
    assert PUBLISHED["gaussian-blur-fixed", "flash(resample)", "FFHQ"].gamma == 2000
    assert PUBLISHED["nonlinear-blur", "ccdf(latent-dps)", "FFHQ"].start_step == 200
    assert not any(task == "nonlinear-blur" and "psld" in method for task, method, _ in PUBLISHED)
    for task, method, _ in [*PUBLISHED, *PRESETS]:
        assert task in TASKS and method in METHODS


class _Prior:
    """A prior as far as the solvers' constructors look at it."""

    def __init__(self, autoencoder):
        self.autoencoder, self.schedule = autoencoder, ToyPrior().schedule


def test_settings_reach_the_solver():
    prior = _Prior(object())
    settings = Settings(eta=3.0, omega=0.7, gamma=11.0, proximal=0.2, steps=50, delta=0.5)
    psld = make_solver("psld", prior, settings)
    assert (type(psld), psld.eta, psld.omega, len(psld.grid), psld.transition.delta) == (PSLD, 3.0, 0.7, 50, 0.5)
    gml = make_solver("gml-dps", prior, settings)
    assert (type(gml), gml.omega) == (GMLDPS, 0.7)
    resample = make_solver("resample", prior, settings)
    assert (resample.gamma, resample.proximal) == (11.0, 0.2)
    assert make_solver("prior", prior, settings).eta == 0


def test_the_settings_of_a_method_are_those_that_it_checks(tiny_pipeline):
    cannot_be = {
        "eta": -1.0,
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
    }
    assert cannot_be.keys() | {"jacobian"} == {field.name for field in fields(Settings)}
    for name in METHODS:
        start, solver = parse_method(name)
        prior = _Prior(IdentityAutoencoder() if solver == "dps" else object())
        refused = set()
        for setting, value in cannot_be.items():
            settings = Settings(**{setting: value})
            try:
                make_solver(solver, prior, settings)
                make_start(start, tiny_pipeline.severity_encoder, settings, tiny_pipeline.regressor)
            except InputError:
                refused.add(setting)
        if name in {"ae", "swinir"}:  # their time grid is made and never walked
            refused -= {"steps", "delta"}
        if getattr(make_solver(solver, prior, Settings(jacobian=False)), "gradient", Gradient()) != Gradient():
            refused.add("jacobian")
        if name in {"ae", "swinir"}:
            refused.discard("jacobian")
        assert settings_of(start, solver) == refused, name


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
            make_start(name, None, Settings())
    assert isinstance(make_start("noise", None, Settings()), FromNoise)


def test_what_was_not_published_is_said():
    assert published_for("random-inpainting", "flash", "psld", "FFHQ").omega == 0.5
    with pytest.raises(InputError, match="nothing published for nonlinear-blur, flash\\(psld\\), FFHQ; known"):
        published_for("nonlinear-blur", "flash", "psld", "FFHQ")


def test_no_steps_are_refused_and_not_taken_for_all():
    assert preset_for("gaussian-blur", "flash", "latent-dps", steps=0).steps == 0
    with pytest.raises(InputError, match="steps is 0"):
        make_solver("latent-dps", _Prior(object()), Settings(steps=0))
