"""The stage of the distilled decoder: it comes nearer to D0, needs the autoencoder alone, and `all` leaves it out."""

import json
import shutil

import pytest
import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.priors import load_autoencoder, load_distilled_decoder
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.recipes import RECIPES
from flashdiffusion.training.run import FOLDERS, OPTIONAL_STAGES, STAGES, make_stage, train, with_space
from logs import read_log


@pytest.fixture
def model(tiny_model, tmp_path):
    """The tiny model's autoencoder alone."""
    shutil.copytree(tiny_model / "autoencoder", tmp_path / "model" / "autoencoder")
    return tmp_path / "model"


def test_a_few_steps_bring_it_nearer_to_d0(model, image_folder, recipe):
    autoencoder = load_autoencoder(model / "autoencoder")
    x = ImageDataset([image_folder], 32).batch(range(12))

    def distance() -> float:
        distilled = load_distilled_decoder(model / "distilled_decoder", autoencoder)
        with torch.no_grad():
            z = autoencoder.encode(x)
            return float((distilled(z) - autoencoder.decode(z)).square().mean())

    train("distilled-decoder", [image_folder], recipe, model, max_steps=1)
    first = distance()
    train("distilled-decoder", [image_folder], recipe, model, max_steps=60, resume=True)
    assert distance() < first / 2


def test_its_target_is_what_d0_makes_of_the_same_perturbed_latents(model, image_folder, recipe):
    stage = make_stage("distilled-decoder", recipe, model)
    x = ImageDataset([image_folder], 32).batch(range(4))
    z0 = stage.autoencoder.encode(x)
    seen = []

    def noting(z):
        seen.append(z)
        return stage.autoencoder.decode(z)

    stage.model = torch.nn.Identity()
    stage.model.forward = noting
    loss, log = stage("distilled-decoder", x, Draws(0, 0, 4, slice(None), "cpu"))
    assert float(loss) == 0 and log.keys() == {"psnr"}
    spread = (seen[0] - z0).std(dim=(1, 2, 3))
    low, high = recipe.distilled_decoder.noise_std
    assert low == 0 and bool((spread < 1.1 * high).all()) and len(set(spread.tolist())) == 4


def test_the_autoencoder_is_left_as_it_is(model, image_folder, recipe):
    before = {p.name: p.read_bytes() for p in (model / "autoencoder").iterdir()}
    train("distilled-decoder", [image_folder], recipe, model, max_steps=2)
    assert {p.name: p.read_bytes() for p in (model / "autoencoder").iterdir()} == before
    assert {p.name for p in model.iterdir() if p.is_dir()} == {"autoencoder", "distilled_decoder"}
    assert (model / "distilled-decoder-samples.png").exists()
    assert [row["step"] for row in read_log(model / "distilled-decoder.csv")] == [1, 2]


def test_a_model_is_whole_without_it_and_names_it_where_it_is(tiny_model, tmp_path, image_folder, recipe):
    """`all`, which made the tiny model, leaves it out."""
    assert not set(OPTIONAL_STAGES) & set(STAGES) and set(FOLDERS) == {*STAGES, *OPTIONAL_STAGES}
    assert not (tiny_model / "distilled_decoder").exists()
    shutil.copytree(tiny_model, tmp_path / "model")
    train("distilled-decoder", [image_folder], recipe, tmp_path / "model", max_steps=1)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["distilled_decoder"] == ["flashdiffusion", "DistilledDecoder"] and "regressor" in index
    assert FlashPipeline.from_pretrained(tmp_path / "model").sample_size == 32


def test_it_needs_the_autoencoder(tmp_path, image_folder, recipe):
    with pytest.raises(InputError, match="has no trained autoencoder; run `flashdiffusion train autoencoder`"):
        train("distilled-decoder", [image_folder], recipe, tmp_path)


def test_what_is_not_for_it_is_refused(tmp_path, tiny_model, image_folder, recipe):
    with pytest.raises(InputError, match="a pixel-space model has no distilled-decoder; its stages are denoiser, reg"):
        train("distilled-decoder", [image_folder], with_space(RECIPES["tiny"], "pixel"), tmp_path)
    with pytest.raises(InputError, match="leave it out for the distilled-decoder"):
        train("distilled-decoder", [image_folder], recipe, tmp_path, init=tiny_model)
    with pytest.raises(InputError, match="unknown stage 'distilled_decoder'; did you mean distilled-decoder"):
        train("distilled_decoder", [image_folder], recipe, tmp_path)
