"""The stage of the light decoder: it comes nearer to D0, needs the autoencoder alone, and `all` leaves it out."""

import json
import shutil

import pytest
import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.data import PictureDataset
from flashdiffusion.errors import InputError
from flashdiffusion.priors import load_autoencoder, load_light_decoder
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.recipes import RECIPES
from flashdiffusion.training.run import FOLDERS, OPTIONAL_STAGES, STAGES, make_stage, train, with_space
from logs import read_log


@pytest.fixture
def model(tiny_model, tmp_path):
    """The tiny model's autoencoder alone."""
    shutil.copytree(tiny_model / "autoencoder", tmp_path / "model" / "autoencoder")
    return tmp_path / "model"


def test_a_few_steps_bring_it_nearer_to_d0(model, picture_folder, recipe):
    autoencoder = load_autoencoder(model / "autoencoder")
    x = PictureDataset([picture_folder], 32).batch(range(12))

    def distance() -> float:
        light = load_light_decoder(model / "light_decoder", autoencoder)
        with torch.no_grad():
            z = autoencoder.encode(x)
            return float((light(z) - autoencoder.decode(z)).square().mean())

    train("light-decoder", [picture_folder], recipe, model, max_steps=1)
    first = distance()
    train("light-decoder", [picture_folder], recipe, model, max_steps=60, resume=True)
    assert distance() < first / 2


def test_its_target_is_what_d0_makes_of_the_same_perturbed_latents(model, picture_folder, recipe):
    stage = make_stage("light-decoder", recipe, model)
    x = PictureDataset([picture_folder], 32).batch(range(4))
    z0 = stage.autoencoder.encode(x)
    seen = []

    def noting(z):
        seen.append(z)
        return stage.autoencoder.decode(z)

    stage.model = torch.nn.Identity()
    stage.model.forward = noting
    loss, log = stage("light-decoder", x, Draws(0, 0, 4, slice(None), "cpu"))
    assert float(loss) == 0 and log.keys() == {"psnr"}
    spread = (seen[0] - z0).std(dim=(1, 2, 3))
    low, high = recipe.light_decoder.noise_std
    assert low == 0 and bool((spread < 1.1 * high).all()) and len(set(spread.tolist())) == 4


def test_the_autoencoder_is_left_as_it_is(model, picture_folder, recipe):
    before = {p.name: p.read_bytes() for p in (model / "autoencoder").iterdir()}
    train("light-decoder", [picture_folder], recipe, model, max_steps=2)
    assert {p.name: p.read_bytes() for p in (model / "autoencoder").iterdir()} == before
    assert {p.name for p in model.iterdir() if p.is_dir()} == {"autoencoder", "light_decoder"}
    assert (model / "light-decoder-samples.png").exists()
    assert [row["step"] for row in read_log(model / "light-decoder.csv")] == [1, 2]


def test_a_model_is_whole_without_it_and_names_it_where_it_is(tiny_model, tmp_path, picture_folder, recipe):
    """`all`, which made the tiny model, leaves it out."""
    assert not set(OPTIONAL_STAGES) & set(STAGES) and set(FOLDERS) == {*STAGES, *OPTIONAL_STAGES}
    assert not (tiny_model / "light_decoder").exists()
    shutil.copytree(tiny_model, tmp_path / "model")
    train("light-decoder", [picture_folder], recipe, tmp_path / "model", max_steps=1)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["light_decoder"] == ["flashdiffusion", "LightDecoder"] and "regressor" in index
    assert FlashPipeline.from_pretrained(tmp_path / "model").sample_size == 32


def test_it_needs_the_autoencoder(tmp_path, picture_folder, recipe):
    with pytest.raises(InputError, match="has no trained autoencoder; run `flashdiffusion train autoencoder`"):
        train("light-decoder", [picture_folder], recipe, tmp_path)


def test_what_is_not_for_it_is_refused(tmp_path, tiny_model, picture_folder, recipe):
    with pytest.raises(InputError, match="a pixel-space model has no light-decoder; its stages are denoiser, reg"):
        train("light-decoder", [picture_folder], with_space(RECIPES["tiny"], "pixel"), tmp_path)
    with pytest.raises(InputError, match="init is for the severity encoder, and light-decoder has none"):
        train("light-decoder", [picture_folder], recipe, tmp_path, init=tiny_model)
    with pytest.raises(InputError, match="unknown stage 'light_decoder'; did you mean light-decoder"):
        train("light_decoder", [picture_folder], recipe, tmp_path)
