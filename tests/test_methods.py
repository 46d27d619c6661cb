import pytest

from flashdiffusion.errors import InputError
from flashdiffusion.methods import METHODS, parse_method
from flashdiffusion.physics import TASKS, GaussianBlur
from flashdiffusion.presets import PRESETS, preset_for, preset_for_name


def test_flash_differs_from_its_baseline_in_the_start_only():
    assert parse_method("latent-dps") == ("noise", "latent-dps")
    assert parse_method("Flash( Latent-DPS )") == ("flash", "latent-dps")
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
        assert preset_for_name(task.physics) is PRESETS[task.physics]
    assert preset_for(GaussianBlur([1.0])) is PRESETS["gaussian-blur"]
    assert preset_for(object()) is PRESETS["gaussian-blur"]
