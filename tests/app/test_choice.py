"""What a click asks for: what is refused, and how it is written as commands."""

import shlex

import pytest

from flashdiffusion.app.choice import METHODS, Choice, script
from flashdiffusion.app.damages import DAMAGES, FACES, PHOTOGRAPHS, damages_for
from flashdiffusion.app.severities import Scale, scales
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.parse import drawn_by, read_physics
from flashdiffusion.methods import parse_method
from flashdiffusion.physics import get_task


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "cats"}, "unknown model 'cats'"),
        ({"damage": "rain"}, "unknown damage 'rain'"),
        ({"damage": "jpeg", "strengths": (20.0,)}, "faces-128 does not know"),
        ({"strengths": (9.0,)}, "pixels is 9; expected 0.5 to 4"),
        ({"strengths": ()}, "0 strengths"),
        ({"noise_std": None}, "expected a number"),
        ({"noise_std": 2.0}, "noise is 2.0"),
        ({"damage": "lost", "strengths": (0.5,), "damaged": True}, "drawn at random"),
        ({"methods": ("ae", "ae")}, "compared with itself"),
        ({"methods": ("denoise",)}, "unknown method of faces-128"),
        ({"samples": 0}, "0 samples"),
        ({"quality": "perfect"}, "unknown quality"),
    ],
)
def test_what_cannot_be_is_refused_in_words(wrong, says):
    with pytest.raises(InputError, match=says):
        Choice(**wrong)


def test_commands_are_quoted_and_say_what_was_chosen():
    one = Choice(PHOTOGRAPHS, "holes", (), True, 0.0, ("flash(proximal)", "ae"), "best", seed=3)
    first, second = script(one.commands("picture.jpg")).splitlines()
    assert first == (
        "flashdiffusion restore picture.jpg --out restored --model photos --method 'flash(proximal)' --quality=best "
        "--physics random-inpainting:mask=mask.png --noise-std 0 --seed 3"
    )
    assert "--quality" not in second
    assert "--out restored-2" in second
    degraded = Choice(FACES, "blur", (1.5,)).commands("picture.png")
    assert shlex.join(degraded[0]).endswith("--physics gaussian-blur:std=1.5 --noise-std 0.02 --fit --seed 0")


def test_noise_is_that_of_its_commands():
    one = Choice(noise_std=0.1 + 0.2 - 1e-8)
    words = one.commands("picture.png")[0]
    assert float(words[words.index("--noise-std") + 1]) == one.noise_std == 0.3


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=lambda one: one.name)
def test_every_damage_can_be_said_on_the_command_line(damage):
    text = damage.physics(tuple(one.usual for one in damage.strengths))
    assert read_physics(text)
    assert damage.drawn == (drawn_by(text) is not None)
    assert get_task(damage.task).physics in {one.name for one in read_physics(text)}


@pytest.mark.parametrize("model", METHODS)
def test_every_model_has_damages_methods_and_scales(model):
    assert {one.task for one in damages_for(model, False)} == scales(model).keys()
    assert {one.name for one in damages_for(model, True)} < {one.name for one in damages_for(model, False)} | {None}
    for name in METHODS[model]:
        parse_method(name)


def test_a_rank_is_the_inverse_of_a_percentile():
    scale = Scale("blur", "images", 5, 0.02, (0.1, 0.2, 0.4, 0.8, 1.6))
    assert [scale.rank(value) for value in (0.01, 0.1, 0.4, 0.6, 9.0)] == [0, 0, 50, 62.5, 100]
    assert scale.at(scale.rank(0.3)) == pytest.approx(0.3)
