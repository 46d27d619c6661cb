import pytest

from flashdiffusion.errors import InputError
from flashdiffusion.methods import METHODS, parse_method
from flashdiffusion.physics import TASKS, GaussianBlur
from flashdiffusion.presets import PRESETS, preset_for


def test_flash_differs_from_its_baseline_in_the_start_only():
    assert parse_method("latent-dps") == ("noise", "latent-dps")
    assert parse_method("Flash( Latent-DPS )") == ("flash", "latent-dps")
    assert parse_method("flash") == ("flash", "latent-dps")
    assert parse_method("ae") == ("estimate", "prior")


@pytest.mark.parametrize(("name", "near"), [("flash(latentdps)", "flash\\(latent-dps\\)"), ("x", "known: ")])
def test_unknown_methods_name_the_nearest(name, near):
    with pytest.raises(InputError, match=near):
        parse_method(name)


def test_every_method_parses_and_every_task_has_settings():
    for name in METHODS:
        start, solver = parse_method(name)
        assert start and solver
    for task in TASKS.values():
        for start in ("flash", "noise"):
            assert preset_for(task.physics, start) in PRESETS.values()
    assert preset_for(GaussianBlur([1.0]), "flash") is PRESETS["gaussian-blur", "flash"]
    assert preset_for(object(), "noise") is PRESETS["gaussian-blur", "noise"]
    assert preset_for("gaussian-blur", "estimate") is PRESETS["gaussian-blur", "flash"]
