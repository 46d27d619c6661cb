"""What a search is after, and what it tries."""

import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from flashdiffusion.errors import InputError
from flashdiffusion.experiments.aim import Aim
from flashdiffusion.experiments.space import Plan, parse_ranges
from flashdiffusion.methods import Settings, methods, parse_method, settings_of, tuning_grid, used_settings

MEASURED = ("psnr", "ssim", "lpips")


def plan_of(method="flash(proximal)", grid=None, ranges=None, seed=0, **given):
    """The plan of a method whose present settings are those given, else its defaults."""
    start, solver = parse_method(method)
    base = Settings(**used_settings(start, solver, Settings(**given)))
    return Plan.of(start, solver, base, grid, ranges, seed)


# -- what is best -----------------------------------------------------------------------------------------


def test_an_aim_is_a_metric_in_its_own_direction_or_a_sum_that_is_minimised():
    row = {"psnr": 20.0, "lpips": 0.25, "ssim": 0.5}
    assert [Aim.of(name, MEASURED, {}).higher for name in MEASURED] == [True, True, False]
    assert Aim.of("psnr", MEASURED, {}).value(row) == 20
    weighted = Aim.of("lpips=1 psnr=-0.01", MEASURED, {})
    assert not weighted.higher and weighted.value(row) == pytest.approx(0.05)
    assert weighted.mean([row, row | {"lpips": 0.75}]) == pytest.approx(0.3)
    assert weighted.mean([row, row | {"psnr": None}]) is None and weighted.mean([]) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lpip", "unknown metric 'lpip'; did you mean lpips"),
        ("lpips=1 pnsr=-1", "unknown metric 'pnsr'; did you mean psnr"),
        ("", "unknown metric ''"),
        ("lpips=1 psnr=0.01", "of psnr more is better; expected a negative weight: psnr=-0.01"),
        ("lpips=-2", "of lpips less is better; expected a positive weight: lpips=2"),
        ("lpips=1 lpips=2", "lpips is given twice"),
        ("lpips=1 psnr", "objective psnr; expected METRIC, or METRIC=WEIGHT"),
        ("lpips=0", "expected a finite weight that is not 0"),
        ("lpips=inf", "expected a finite weight that is not 0"),
        ("lpips psnr", "unknown metric 'lpips psnr'"),
    ],
)
def test_an_objective_that_is_none_or_would_make_worse_images_win_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        Aim.of(text, MEASURED, {})


def test_what_is_not_measured_is_no_objective():
    with pytest.raises(InputError, match="lpips needs weights; give --lpips FILE"):
        Aim.of("lpips=1 psnr=-0.1", ["psnr", "ssim"], {})
    with pytest.raises(InputError, match="lpips needs sides of 31 pixels; choose another metric"):
        Aim.of("lpips", MEASURED, {}).value({"psnr": 1.0, "missing": {"lpips": "lpips needs sides of 31 pixels"}})
    assert Aim.of("psnr", MEASURED, {}).value({"psnr": 1.0, "missing": {"lpips": "too small"}}) == 1


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(limit):
    with pytest.raises(InputError, match=f"--max-nfe is {limit:g}; expected a finite number above 0"):
        Aim.of("psnr", MEASURED, {"nfe": limit, "gflop": None})


# -- what is tried ----------------------------------------------------------------------------------------


def test_ranges_are_read():
    assert parse_ranges("eta=0.5:8:log start_step=10:50") == {
        "guidance": FloatDistribution(0.5, 8.0, log=True),
        "start_step": IntDistribution(10, 50),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("guidence=1:2", "unknown setting 'guidence'; did you mean guidance"),
        ("eta=1:2 guidance=1:2", "guidance is given twice"),
        ("mixing=a:b", "mixing is no number; give its values: --grid mixing="),
        *((f"eta={span}", "expected NAME=LOW:HIGH or") for span in ("", "1", "2:1", "1:1", "0:1:log", "1:x", "1:inf")),
        ("eta=1:2:lin", "expected NAME=LOW:HIGH or"),
        ("start_step=1.5:3", "expected NAME=LOW:HIGH or"),
    ],
)
def test_ranges_that_are_none_are_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_ranges(text)


def test_a_method_suggests_ranges_around_its_present_settings_and_begins_with_them():
    plan = plan_of(correction=6.0, trust=3.0)
    assert plan.space == {
        "trust": FloatDistribution(2.0, 4.0),
        "error_share": FloatDistribution(0.0, 0.5),
        "correction": FloatDistribution(0.0, 6.0),
    }
    assert plan.first == [{"trust": 3.0, "error_share": 0.25, "correction": 6.0}] and not plan.is_grid
    ccdf = plan_of("ccdf(dps)").space
    assert ccdf["start_step"] == IntDistribution(10, 100, log=True) and ccdf["guidance"].log


def test_every_method_has_a_default_space_of_its_own_settings():
    for method in methods():
        start, solver = parse_method(method)
        assert tuning_grid(start, solver).keys() <= settings_of(start, solver).keys()
        if tuning_grid(start, solver):
            assert plan_of(method).space.keys() == tuning_grid(start, solver).keys()
    assert tuning_grid("flash", "psld").keys() == {"guidance", "omega", "correction"}


def test_a_grid_is_every_combination_and_beside_ranges_it_is_values_to_choose_from():
    plan = plan_of(grid="trust=2,4,4 mixing=paper,consistent", error_share=0.5)
    tried = [(one.trust, one.mixing, one.error_share) for one in map(plan.settings, plan.first)]
    assert sorted(tried) == [(t, m, 0.5) for t in (2.0, 4.0) for m in ("consistent", "paper")] and plan.is_grid
    both = plan_of(grid="mixing=paper,consistent", ranges="trust=5:12")
    assert both.space == {"mixing": CategoricalDistribution(["paper", "consistent"]), "trust": FloatDistribution(5, 12)}
    assert both.first == [] and not both.is_grid, "the present settings are outside"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"grid": ""}, "nothing to search"),
        ({"ranges": " "}, "nothing to search"),
        ({"method": "ae"}, "nothing to search for ae"),
        ({"grid": "trust=2", "ranges": "trust=2:3"}, "trust: in --grid and in --space"),
        ({"grid": "eta=1"}, "guidance: not used by method flash\\(proximal\\)"),
        ({"ranges": "gamma=1:2"}, "gamma: not used by method flash\\(proximal\\)"),
        ({"grid": "trust=1,x"}, "expected numbers"),
        ({"grid": "trust"}, "expected numbers"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        plan_of(**options)
