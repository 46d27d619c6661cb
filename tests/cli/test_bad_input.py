"""Bad input: one line that names the value and says what was expected, exit code 2, nothing written."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flashdiffusion.data import MeasurementFile
from flashdiffusion.data.decoding import FORMATS
from flashdiffusion.physics import KernelWizard

BLUR = ("--physics", "gaussian-blur:std=1")


@pytest.fixture
def refused(flash, tmp_path):
    """Run a command with `--out` in an empty folder; the one line that it fails with."""

    def run(*arguments: object, out: Path | None = None) -> str:
        folder = tmp_path / "out"
        options = [] if arguments[0] == "severity" else ["--out", folder if out is None else out]
        ended = flash(*arguments, *options)
        assert ended.code == 2
        assert ended.out == ""
        assert re.fullmatch(r"flashdiffusion: error: .+\n", ended.err), ended.err  # "." is no line break
        assert not folder.is_dir() or list(folder.iterdir()) == []
        return ended.err

    return run


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def measurement(tmp_path) -> Path:
    path = tmp_path / "measurement.safetensors"
    y = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    MeasurementFile("measurement", y, "gaussian-blur", {"std": torch.tensor([1.0])}, 0.05).save(path)
    return path


# -- inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["restore", "severity", "degrade"])
@pytest.mark.parametrize("name", ["absent.png", "absent.safetensors"])
def test_a_missing_file(refused, tmp_path, tiny_model, command, name):
    path = tmp_path / name
    model = () if command == "degrade" else ("--model", tiny_model)
    physics = BLUR if command == "restore" else ()
    line = refused(command, path, *model, *physics)
    assert f"cannot read {path}" in line.lower() and "o such file" in line


@pytest.mark.parametrize("command", ["restore", "severity", "degrade"])
@pytest.mark.parametrize("kind", ["text", "truncated", "empty"])
def test_a_file_that_is_no_whole_image(refused, image, tmp_path, tiny_model, command, kind):
    path = tmp_path / "bad.png"
    whole = image.read_bytes()
    path.write_bytes({"text": b"these are words", "truncated": whole[: len(whole) // 2], "empty": b""}[kind])
    model = () if command == "degrade" else ("--model", tiny_model)
    line = refused(command, path, *model, *(BLUR if command == "restore" else ()))
    assert str(path) in line
    assert ("damaged or truncated image" if kind == "truncated" else "not an image") in line


def test_a_decompression_bomb(refused, image, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    line = refused("degrade", image)
    assert f"{image}: too large" in line and "expected at most" in line


def test_a_deep_image(refused, tmp_path):
    path = tmp_path / "deep.png"
    Image.new("F", (32, 32)).save(path, "TIFF")
    line = refused("degrade", path)
    assert f"{path}: F image, whose range is not known; expected 8 or 16 bits" in line


@pytest.mark.parametrize("command", ["restore", "severity"])
def test_a_size_that_would_be_little_but_padding(refused, tmp_path, tiny_model, command):
    path = tmp_path / "odd.png"
    Image.new("RGB", (7, 32)).save(path)
    physics = BLUR if command == "restore" else ()
    line = refused(command, path, "--model", tiny_model, *physics)
    assert f"{path}: images of 32 x 7 pixels (height x width); expected at least 8 pixels a side (--fit" in line


@pytest.mark.parametrize("command", ["restore", "severity"])
def test_fit_is_named_only_where_it_helps(refused, tmp_path, tiny_model, command):
    path = tmp_path / "odd.safetensors"
    MeasurementFile("odd", torch.rand(3, 32, 7), "gaussian-blur", {"std": torch.tensor([1.0])}, 0.05).save(path)
    line = refused(command, path, "--model", tiny_model)
    assert "expected at least 8 pixels a side\n" in line


@pytest.mark.parametrize("physics", ["phase-retrieval", "hdr+phase-retrieval", "phase-retrieval+jpeg:quality=50"])
def test_an_image_for_a_physics_that_gives_none(refused, image, tiny_model, physics):
    for fit in ((), ("--fit",)):
        line = refused("restore", image, "--physics", physics, "--model", tiny_model, *fit)
        assert str(image) in line and "needs a measurement file that `flashdiffusion degrade` wrote" in line


@pytest.mark.parametrize("command", ["restore", "severity"])
def test_fit_with_a_model_that_does_not_say_its_size(refused, tmp_path, image, tiny_model, command):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("model_index.json"))
    physics = BLUR if command == "restore" else ()
    assert "expected sample_size in its index" in refused(command, image, *physics, "--fit", "--model", model)


def test_a_composition_whose_network_no_file_would_hold(refused, tmp_path, image):
    weights = tmp_path / "weights.pth"
    torch.save(KernelWizard().state_dict(), weights)
    for physics in (
        f"blur-kernel-space:weights={weights}+jpeg:quality=50",
        f"hdr+hdr+blur-kernel-space:weights={weights}",
    ):
        line = refused("degrade", image, "--physics", physics)
        assert "does not hold the network of blur-kernel-space" in line and "give blur-kernel-space alone" in line


def test_an_image_without_physics(refused, image, tiny_model):
    line = refused("restore", image, "--model", tiny_model)
    assert "image is an image: say what damaged it with --physics" in line


def test_a_folder_of_neither_kind(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("")
    assert "folder holds neither measurement files nor images" in refused("degrade", tmp_path / "folder")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("command", ["restore", "severity"])
def test_a_measurement_that_is_not_finite(refused, measurement, tiny_model, command, value):
    with safe_open(measurement, framework="pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(measurement)
    tensors["y"][1, 3, 5] = value
    save_file(tensors, measurement, metadata)
    line = refused(command, measurement, "--model", tiny_model)
    assert f"{measurement}: NaN or infinite values" in line and "expected finite numbers" in line


def _rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> None:
    """Change a measurement file: its version, or what it says of the physics."""
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    metadata["version"] = str(changes.pop("version", metadata["version"]))
    metadata["measurement"] = json.dumps(json.loads(metadata["measurement"]) | changes)
    save_file(load_file(path) | (tensors or {}), path, metadata)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "measurement of version 2; this library reads 1"),
        ({"physics": "rain"}, "'rain'; this library knows "),
        ({"noise_std": -0.5}, "noise std is -0.5; expected a finite number >= 0"),
        ({"noise_std": float("nan")}, "noise std is nan; expected a finite number >= 0"),
        ({"tensors": {"params.std": torch.tensor([-2.0])}}, "blur std is [-2.0]; expected numbers from 0 to 50"),
        ({"tensors": {"params.std": torch.ones(2)}}, "parameters for 2 images; y has 1"),
        ({"tensors": {"params.ratio": torch.ones(1)}}, "has the parameter std; got ['ratio', 'std']"),
        ({"tensors": {"y": torch.zeros(1, 32, 32)}}, "shape (1, 1, 32, 32); expected (B, 3, H, W)"),
        ({"tensors": {"y": torch.zeros(3, 32, 32, dtype=torch.uint8)}}, "torch.uint8; expected floats"),
    ],
)
def test_a_measurement_file_with_a_value_that_cannot_be(refused, measurement, tiny_model, changes, reason):
    _rewrite(measurement, **changes)
    line = refused("restore", measurement, "--model", tiny_model)
    assert reason in line and str(measurement) in line


def test_weights_given_as_a_measurement(refused, tiny_model):
    path = tiny_model / "denoiser" / "diffusion_pytorch_model.safetensors"
    line = refused("restore", path, "--model", tiny_model)
    assert f"{path} is no measurement; expected a file that `flashdiffusion degrade` wrote" in line


# -- names that do not exist, with the nearest that does --------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "hint"),
    [
        (("degrade", "{image}", "--task", "gausian-blur"), "task 'gausian-blur'", "gaussian-blur"),
        (("restore", "{image}", "--method", "latent-dsp"), "method 'latent-dsp'", "latent-dps"),
        (("degrade", "{image}", "--physics", "gausian-blur:std=2"), "physics 'gausian-blur'", "gaussian-blur"),
        (("degrade", "{image}", "--physics", "gaussian-blur:sdt=2"), "parameter of gaussian-blur 'sdt'", "std"),
        (("restore", "{image}", *BLUR, "--model", "faces-12"), "model 'faces-12'", "faces-128"),
        (("train", "autoencodr", "--data", "{images}", "--config", "tiny"), "stage 'autoencodr'", "autoencoder"),
        (("train", "all", "--data", "{images}", "--config", "faces128"), "config 'faces128'", "faces-128"),
        (
            ("train", "all", "--data", "{images}", "--config", "tiny", "--head", "papr"),
            "severity head 'papr'",
            "paper",
        ),
        (
            ("train", "all", "--data", "{images}", "--config", "tiny", "--task", "inpainting"),
            "task 'inpainting'",
            "random-inpainting",
        ),
    ],
)
def test_an_unknown_name(refused, image, image_folder, arguments, kind, hint):
    filled = [a.format(image=image, images=image_folder) for a in arguments]
    line = refused(*filled)
    assert kind in line and hint in line.split(kind)[1]


@pytest.mark.parametrize(
    ("command", "options", "kind", "hint"),
    [
        ("evaluate", ("--task", "random-inpaint"), "unknown task 'random-inpaint'", "random-inpainting"),
        ("evaluate", ("--method", "latent-dsp"), "unknown method 'latent-dsp'", "latent-dps"),
        ("evaluate", ("--preset", "foo"), "unknown preset 'foo'", "FFHQ, LSUN, tuned"),
        ("evaluate", ("--mixing", "papr"), "unknown mixing 'papr'", "paper"),
        ("ordering", ("--task", "gaussian-bl"), "unknown task 'gaussian-bl'", "gaussian-blur"),
    ],
)
def test_an_unknown_name_in_an_experiment(refused, tmp_path, image_folder, tiny_model, command, options, kind, hint):
    out = tmp_path / "out" / "results.json"
    line = refused(command, "--data", image_folder, "--model", tiny_model, *options, out=out)
    assert kind in line and hint in line.split(kind)[1]


# -- numbers out of range ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--physics", "gaussian-blur:std=-1"), "blur std is [-1.0]; expected numbers from 0"),
        (("--physics", "gaussian-blur:std=nan"), "blur std is [nan]; expected numbers from 0"),
        (("--physics", "gaussian-blur:std=wide"), "std of gaussian-blur is 'wide'; expected a number"),
        (("--physics", "gaussian-blur"), "lacks its parameter; expected gaussian-blur:std=NUMBER"),
        (("--physics", "random-inpainting:ratio=1.5"), "ratio is [1.5]; expected numbers in [0, 1]"),
        (("--physics", "random-inpainting:ratio=-0.1"), "expected numbers in [0, 1]"),
        (("--physics", "random-inpainting:mask=absent.png"), "mask: cannot read absent.png"),
        (("--physics", "random-inpainting:mask=pyproject.toml"), "mask: pyproject.toml: not an image"),
        (("--physics", "blur:kernel=absent.npy"), "kernel: cannot read absent.npy"),
        (("--physics", "blur:kernel=pyproject.toml"), "kernel: pyproject.toml: not an image"),
        (("--noise-std", "auto"), "'auto'; expected a number from 0 to 1: noise is added here; auto, of restore and"),
        (("--noise-std", "much"), "'much'; expected a number from 0 to 1"),
        (("--physics", "gaussian-blur:std=10", "--size", "32"), "blur std 10 needs images of more than 40 pixels"),
        (("--noise-std", "-0.1"), "noise std is -0.1; expected a finite number >= 0"),
        (("--size", "-1"), "size is -1; expected a side of 1 to 8192 pixels"),
        (("--size", "99999999"), "size is 99999999; expected a side of 1 to 8192 pixels"),
        (("--size", "many"), "Invalid value for '--size'"),
    ],
)
def test_a_degradation_out_of_range(refused, image, options, reason):
    assert reason in refused("degrade", image, *options)


def test_what_is_wrong_for_every_image_is_said_once(refused, image, image_folder, tiny_model):
    assert "ratio is [2.0]" in refused("degrade", image, image_folder, "--physics", "random-inpainting:ratio=2")
    wrong = ("--physics", "gaussian-blur:std=-1")
    assert "std is [-1.0]" in refused("restore", image, image_folder, *wrong, "--model", tiny_model)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--eta", "-1"), "guidance is -1.0; expected a finite number >= 0"),
        (("--eta", "nan"), "guidance is nan; expected a finite number >= 0"),
        (("--correction", "-1"), "correction c is -1.0; expected a finite number >= 0"),
        (("--steps", "0"), "steps is 0; expected at least 1"),
        (("--method", "latent-dps", "--steps", "0"), "steps is 0; expected 1 to 1000"),
        (("--method", "latent-dps", "--steps", "1001"), "steps is 1001; expected 1 to 1000"),
        (("--delta", "1.5"), "1.5"),
        (("--max-in-flight", "0"), "max_in_flight is 0; expected at least 1"),
        (("--device", "gpu"), "device 'gpu' cannot be used here"),
        (("--device", "meta"), "device 'meta' cannot be used here"),
        (("--reference", "absent"), "reference absent does not exist; expected the true image, or their folder"),
        (("--lpips", "absent.safetensors", "--reference", "."), "no LPIPS weights at absent.safetensors; give"),
        (("--lpips", "absent.safetensors"), "give its folder as --reference too"),
        (("--colour", "red"), "No such option"),
    ],
)
def test_a_setting_that_cannot_be(refused, measurement, tiny_model, options, reason):
    line = refused("restore", measurement, "--model", tiny_model, *options)
    assert reason in line


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        (
            "flash(latent-dps)",
            ("--gamma", 100, "--eta", 1, "--start-step", 3),
            "--gamma, --start-step: not used by method flash(latent-dps), which takes --guidance, --decoder-error, ",
        ),
        (
            "latent-dps",
            ("--correction", 1),
            "--steps, --delta, --guide-every, --jacobian, --distilled; used by flash(latent-dps), flash(prior), ",
        ),
        ("ccdf(psld)", ("--mixing", "paper"), "which takes --guidance, --omega, --start-step, --steps, --delta, "),
        ("ae", ("--steps", 5), "--steps: not used by method ae, which takes no settings; used by latent-dps, dps, "),
    ],
)
def test_a_setting_that_the_method_does_not_use(refused, tmp_path, measurement, image_folder, method, options, reason):
    absent = ("--model", "absent", "--method", method, *options)  # refused before a model is loaded
    assert reason in refused("restore", measurement, *absent)
    assert reason in refused("evaluate", "--data", image_folder, *absent, out=tmp_path / "out" / "results.json")


def test_the_bound_is_for_evaluate_and_takes_no_settings(refused, tmp_path, measurement, image_folder):
    line = refused("restore", measurement, "--method", "bound", "--model", "absent")
    assert "the autoencoder alone on the true image, for `evaluate` only; choose another" in line
    options = ("--data", image_folder, "--model", "absent", "--method", "bound", "--eta", 1)
    line = refused("evaluate", *options, out=tmp_path / "out" / "results.json")
    assert "--guidance: not used by method bound, which takes no settings" in line


def test_true_images_that_are_missing_are_found_before_a_model_is_loaded(refused, tmp_path, measurement):
    truth = tmp_path / "truth"
    truth.mkdir()
    others = [shutil.copy(measurement, tmp_path / f"{name}.safetensors") for name in ("other", "third")]
    shutil.copy(measurement, truth / "third.safetensors")  # no image
    Image.new("RGB", (32, 32)).save(truth / "measurement.PNG")
    line = refused("restore", measurement, *others, "--reference", truth, "--model", "absent")
    assert f"no image other.safetensors in {truth} to compare with" in line and "2 of 3 lack theirs" in line


def test_inpainting_needs_its_mask_to_restore(refused, image, tiny_model):
    line = refused("restore", image, "--physics", "random-inpainting:ratio=0.7", "--model", tiny_model)
    assert "random-inpainting:mask=FILE" in line


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("ordering", ("--levels", "1"), "levels is 1; expected at least 2"),
        ("ordering", ("--limit", "0"), "limit is 0; expected at least 1"),
        ("ordering", ("--low", "-1"), "low is -1, a level (std) that task gaussian-blur refuses"),
        ("ordering", ("--noise-std", "-1"), "noise std is -1; expected"),
        ("ordering", ("--over", "noise", "--high", "nan"), "high is nan; expected"),
        ("evaluate", ("--limit", "0"), "limit is 0; expected at least 1"),
        ("evaluate", ("--limit", "-1"), "limit is -1; expected at least 1"),
        ("evaluate", ("--batch-size", "0"), "batch size is 0; expected at least 1"),
        ("evaluate", ("--eta", "-1"), "guidance is -1.0; expected"),
        ("evaluate", ("--noise-std", "-1"), "noise std is -1.0; expected"),
        (
            "evaluate",
            ("--method", "ae", "--method", "bound"),
            "one results file for 2 methods and tasks; expected a folder",
        ),
    ],
)
def test_an_experiment_s_number_out_of_range(refused, tmp_path, image_folder, tiny_model, command, options, reason):
    out = tmp_path / "out" / "results.json"
    assert reason in refused(command, "--data", image_folder, "--model", tiny_model, *options, out=out)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--limit", "0"), "limit is 0; expected at least 1"),
        (("--max-steps", "0"), "max-steps is 0; expected at least 1"),
        (("--max-minutes", "0"), "max-minutes is 0; expected a positive number"),
        (("--max-minutes", "nan"), "max-minutes is nan; expected a positive number"),
        (("--noise-std", "-1"), "noise std is -1; expected a finite number >= 0"),
        (("--lpips", "absent.safetensors"), "no LPIPS weights at absent.safetensors"),
    ],
)
def test_a_training_number_out_of_range(refused, image_folder, options, reason):
    assert reason in refused("train", "all", "--data", image_folder, "--config", "tiny", *options)


def test_training_data_that_is_not_there(refused, tmp_path):
    line = refused("train", "all", "--data", tmp_path / "absent", "--config", "tiny")
    assert f"no such file or folder: {tmp_path / 'absent'}" in line


def test_a_stage_before_its_autoencoder(refused, image_folder):
    line = refused("train", "denoiser", "--data", image_folder, "--config", "tiny")
    assert "has no trained autoencoder; run `flashdiffusion train autoencoder`" in line


# -- places to write to -----------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("command", ["degrade", "restore", "train", "demo"])
def test_an_output_folder_that_cannot_be(refused, tmp_path, image, image_folder, tiny_model, command, below):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    out = taken / "below" if below else taken
    arguments = {
        "degrade": (image,),
        "restore": (image, *BLUR, "--model", tiny_model),
        "train": ("all", "--data", image_folder, "--config", "tiny"),
        "demo": ("--model", tiny_model),
    }[command]
    line = refused(command, *arguments, out=out)
    assert f"cannot write to output folder {out}" in line and "give a writable folder" in line
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("command", ["evaluate", "ordering"])
def test_an_output_file_that_cannot_be(refused, tmp_path, image_folder, tiny_model, command):
    (tmp_path / "taken").write_text("mine")
    data = ("--data", image_folder, "--model", tiny_model)
    (tmp_path / "folder.json").mkdir()
    assert "is a folder; expected a file" in refused(command, *data, out=tmp_path / "folder.json")
    line = refused(command, *data, out=tmp_path / "taken" / "results.json")
    assert f"cannot write to output folder {tmp_path / 'taken'}" in line


def test_an_input_is_never_overwritten(refused, image, tiny_model):
    before = image.read_bytes()
    for arguments in (("degrade", image), ("restore", image, *BLUR, "--model", tiny_model)):
        line = refused(*arguments, out=image.parent)
        assert f"{image} is an input and would be overwritten; choose another --out" in line
    assert image.read_bytes() == before


def test_the_true_images_are_never_overwritten(refused, tmp_path, measurement, tiny_model):
    truth = tmp_path / "truth"
    truth.mkdir()
    line = refused("restore", measurement, "--model", tiny_model, "--reference", truth, out=tmp_path / "." / "truth")
    assert "the folder of the true images; choose another --out" in line
    assert list(truth.iterdir()) == []


# -- models of another layout -----------------------------------------------------------------------------


def _empty(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def _other_class(model: Path) -> None:
    config = model / "denoiser" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "ControlNetModel"}))


def _truncated(model: Path) -> None:
    weights = model / "autoencoder" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _no_scheduler(model: Path) -> None:
    shutil.rmtree(model / "scheduler")


def _bad_schedule(model: Path) -> None:
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_schedule": "stairs"}))


def _bad_index(model: Path) -> None:
    (model / "model_index.json").write_text("{")


def _fewer_weights(model: Path) -> None:
    weights = model / "severity_encoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["quant_conv.bias"]
    save_file(tensors, weights, {"format": "pt"})


def _more_weights(model: Path) -> None:
    weights = model / "severity_encoder" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights) | {"surplus": torch.zeros(1)}, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_empty, "has no folder denoiser, unet or transformer; expected a diffusers model folder"),
        (
            _other_class,
            "holds a 'ControlNetModel', a control net",
        ),
        (_truncated, "cannot be read as safetensors"),
        (_no_scheduler, "scheduler has no scheduler_config.json; expected a folder in diffusers' layout"),
        (_bad_schedule, "stairs"),
        (_bad_index, "model_index.json is not JSON"),
        (_fewer_weights, "severity_encoder has nothing for quant_conv.bias"),
        (_more_weights, "severity_encoder: no place for surplus"),
    ],
)
def test_a_model_of_another_layout(refused, tmp_path, tiny_model, measurement, change, reason):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    change(model)
    line = refused("restore", measurement, "--model", model)
    assert reason in line and str(model) in line


def test_a_model_without_severity_encoder(refused, tmp_path, tiny_model, measurement):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("severity_encoder"))
    line = refused("restore", measurement, "--model", model)
    assert "needs a severity encoder and this model has none" in line
    assert "has no severity encoder" in refused("severity", measurement, "--model", model)


def test_a_model_that_does_not_say_its_size(refused, tmp_path, tiny_model, image_folder):
    """Images are evaluated at their own; `--fit` has none to fit to."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("model_index.json"))
    image, out = image_folder / "image-00.png", tmp_path / "out"
    line = refused("restore", image, "--physics", "denoising", "--fit", "--model", model, out=out)
    assert "leave --fit out" in line and "expected sample_size in its index" in line
    Image.new("RGB", (48, 48)).save(tmp_path / "true.png")
    line = refused("restore", image, "--physics", "denoising", "--reference", tmp_path / "true.png", "--model", model)
    assert line.endswith("expected the true image of the result's size\n")


# -- no command, or several inputs of which some are bad --------------------------------------------------


def test_no_command_prints_the_help(flash):
    ended = flash()
    assert ended.code == 0 and ended.err == ""
    assert "Usage: flashdiffusion" in ended.out and "restore" in ended.out


def test_an_unknown_command_and_a_missing_option(refused, flash, image):
    for arguments, reason in ((("resore",), "'resore'"), (("degrade", image), "'--out'")):
        ended = flash(*arguments)
        assert ended.code == 2 and ended.out == ""
        assert re.fullmatch(r"flashdiffusion: error: .+\n", ended.err) and reason in ended.err


@pytest.mark.parametrize(("mode", "written"), [("RGBA", "RGBA"), ("P", "RGB")])
def test_transparent_and_palette_images_keep_their_look_without_a_word(
    flash, tmp_path, image, tiny_model, mode, written
):
    path = tmp_path / "converted.png"
    with Image.open(image) as source:
        source.convert(mode).save(path)
    ended = flash("restore", path, *BLUR, "--method", "ae", "--model", tiny_model, "--out", tmp_path / "out")
    assert ended.code == 0 and ended.err == ""
    with Image.open(tmp_path / "out" / "converted.png") as restored:
        assert restored.mode == written


def test_one_bad_image_among_three_stops_only_itself(flash, tmp_path, image, tiny_model):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(image, inputs / name)
    (inputs / "b.png").write_text("words")
    out = tmp_path / "out"
    ended = flash("restore", inputs, *BLUR, "--method", "ae", "--model", tiny_model, "--out", out)
    assert ended.code == 1
    reason = f"not an image that can be read; expected one of {', '.join(FORMATS)}"
    assert ended.err == f"flashdiffusion: failed: {inputs / 'b.png'}: {reason}\n"
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "c.png", "results.json"]
    records = json.loads((out / "results.json").read_text())["records"]
    assert [record["id"] for record in records] == ["a", "c"]


def test_one_bad_image_among_three_is_not_degraded(flash, tmp_path, image):
    bad = tmp_path / "bad.png"
    bad.write_bytes(image.read_bytes()[:300])
    out = tmp_path / "out"
    other = shutil.copy(image, tmp_path / "other.png")
    ended = flash("degrade", image, bad, other, "--size", 32, "--out", out)
    assert ended.code == 1
    assert re.fullmatch(rf"flashdiffusion: failed: {bad}: damaged or truncated image: .*\n", ended.err)
    assert {p.stem for p in out.iterdir()} == {"image", "other", "degrade"}


def test_a_restoration_that_diverges_is_a_failure_and_is_not_written(flash, tmp_path, measurement, tiny_model):
    method = ("--method", "latent-dps", "--steps", 4, "--eta", 1e38)
    ended = flash("restore", measurement, *method, "--model", tiny_model, "--out", tmp_path / "out")
    assert ended.code == 2 and "measurement: its restoration diverged; try a smaller guidance" in ended.err
    assert not (tmp_path / "out" / "measurement.png").exists()


def test_a_kind_that_the_solver_refuses_stops_only_itself(flash, tmp_path, image, tiny_model):
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    for name, physics in {
        "a": "gaussian-blur:std=1",
        "b": "hdr",
        "c": "box-inpainting:top=1,left=1,height=4,width=4",
    }.items():
        source = shutil.copy(image, tmp_path / f"{name}.png")
        assert flash("degrade", source, "--physics", physics, "--size", 32, "--out", inputs).code == 0
    options = ("--method", "psld", "--steps", 2, "--model", tiny_model, "--out", out)
    ended = flash("restore", inputs, *options)
    assert ended.code == 1
    assert re.fullmatch(r"flashdiffusion: failed: b: psld needs a linear physics .+\n", ended.err)
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "c.png", "results.json"]
    results = json.loads((out / "results.json").read_text())
    assert {record["id"] for record in results["records"]} == {"a", "c"} and "hdr" not in results["settings"]


def test_what_the_solver_refuses_of_every_image_is_said_once(flash, tmp_path, image, tiny_model):
    files = [image, shutil.copy(image, tmp_path / "other.png")]
    common = ("--model", tiny_model, "--out", tmp_path / "out")
    for wrong, reason in (
        (("--physics", "hdr", "--method", "psld"), "psld needs a linear physics"),
        ((*BLUR, "--eta", -1), "guidance is -1.0; expected a finite number >= 0"),
        ((*BLUR, "--max-in-flight", 0), "max_in_flight is 0; expected at least 1"),
    ):
        ended = flash("restore", *files, *wrong, *common)
        assert ended.code == 2 and re.fullmatch(rf"flashdiffusion: error: {reason}.*\n", ended.err)
