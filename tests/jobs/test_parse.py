import pytest
import torch
from PIL import Image

from flashdiffusion.errors import InputError
from flashdiffusion.jobs.parse import drawn_by, parse_physics


def _parse(text):
    return parse_physics(text, (16, 16), torch.Generator().manual_seed(0))


def test_reads_parameters():
    physics = _parse("gaussian-blur:std=2.5,noise_std=0.1")
    assert physics.describe() == [{"physics": "gaussian-blur", "std": 2.5}]
    assert physics.noise_std.tolist() == [0.1]
    assert float(_parse("random-inpainting:ratio=0.5").describe()[0]["ratio"]) == pytest.approx(0.5, abs=0.15)


def test_reads_a_mask_image(tmp_path):
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "mask.png")
    physics = _parse(f"random-inpainting:mask={tmp_path / 'mask.png'}")
    assert physics.params["mask"][0, 0, :, :8].all() and not physics.params["mask"][0, 0, :, 8:].any()


WRITTEN = {
    "gaussian-blur:std=2": {"std": 2.0},
    "box-inpainting:top=1,left=2,height=3,width=4": {"top": 1, "left": 2, "height": 3, "width": 4},
    "super-resolution": {"factor": 4},
    "super-resolution:factor=2": {"factor": 2},
    "motion-blur:length=0,angle=30": {"std": 0.0, "length": 0.0, "angle": 30.0},
    "motion-blur:length=0": {"std": 0.0, "length": 0.0, "angle": 0.0},
    "jpeg:quality=20": {"quality": 20.0, "compression": 80.0},
    "hdr": {"scale": 2.0},
    "hdr:scale=3": {"scale": 3.0},
    "phase-retrieval": {"oversampling": 2.0},
    "gaussian-blur:std=2+jpeg:quality=30": {"std": 2.0, "quality": 30.0, "compression": 70.0},
    "super-resolution:factor=2+hdr+jpeg:quality=30": {"factor": 2, "scale": 2.0, "quality": 30.0, "compression": 70.0},
    "gaussian-blur:std=2e+0+hdr": {"std": 2.0, "scale": 2.0},
}


@pytest.mark.parametrize("text", WRITTEN)
def test_reads_every_operator(text):
    physics = _parse(text)
    (described,) = physics.describe()
    names = "+".join(part.partition(":")[0] for part in text.replace("2e+0", "2").split("+"))
    assert described == {"physics": names} | WRITTEN[text]
    assert physics.noise_std.tolist() == [0.05]
    assert drawn_by(text) is None


@pytest.mark.parametrize("text", ["motion-blur:std=2", "nonlinear-blur:std=2", "random-inpainting:ratio=0.5"])
def test_draws_what_is_not_given(text):
    images = [parse_physics(text, (32, 32), torch.Generator().manual_seed(s)).params for s in (0, 0, 1)]
    values = [next(iter(params.values())) for params in images]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert "a measurement file" in drawn_by(text) and drawn_by(f"hdr+{text}") == drawn_by(text)


def test_the_noise_of_a_composition_is_that_of_its_last():
    assert _parse("gaussian-blur:std=2+jpeg:quality=30,noise_std=0.2").noise_std.tolist() == [0.2]
    with pytest.raises(InputError, match="expected it on the last"):
        _parse("gaussian-blur:std=2,noise_std=0.2+jpeg:quality=30")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gausian-blur:std=2", "gaussian-blur"),
        ("gaussian-blur", "expected gaussian-blur:std=NUMBER"),
        ("gaussian-blur:sdt=2", "std"),
        ("gaussian-blur:std=two", "expected a number"),
        ("gaussian-blur:std=-1", "blur std"),
        ("random-inpainting:ratio=1.5", "ratio"),
        ("gaussian-blur:std=1,noise_std=-1", "noise std"),
        ("motion-blur", "lacks its parameter; expected motion-blur:length=NUMBER,angle=NUMBER or motion-blur:std"),
        ("motion-blur:length=3,std=2", "other parameters; expected motion-blur:length"),
        ("box-inpainting:top=1", "expected box-inpainting:top=NUMBER,left=NUMBER,height=NUMBER,width=NUMBER"),
        ("random-inpainting", "random-inpainting:ratio=NUMBER or random-inpainting:mask=FILE"),
        ("super-resolution:factor=2.5", "whole numbers"),
        ("jpeg:quality=0", "jpeg quality"),
        ("gaussian-blur:std=2+jpg:quality=3", "std of gaussian-blur is '2[+]jpg:quality=3'"),
        ("gaussian-blur:std=2+jpeg", "expected jpeg:quality=NUMBER"),
        ("blur-kernel-space:weights=absent.pth", "no blur-kernel-space weights at absent.pth"),
        # What it would have to guess:
        ("gaussian-blur:std=2,std=3", "std of gaussian-blur is given as 2 and as 3; expected it once"),
        ("hdr:noise_std=0.1,noise_std=0.1", "noise_std of hdr is given as 0.1 and as 0.1; expected it once"),
        ("gaussian-blur:2", "'2' of gaussian-blur is no PARAMETER=VALUE; expected gaussian-blur:std=NUMBER"),
        ("jpeg:quality", "'quality' of jpeg is no PARAMETER=VALUE"),
    ],
)
def test_names_what_is_wrong(text, message):
    with pytest.raises(InputError, match=message):
        _parse(text)
