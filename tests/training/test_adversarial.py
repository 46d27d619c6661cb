"""The adversarial phase of the autoencoder."""

from dataclasses import replace

import pytest
import torch

from flashdiffusion.training.discriminator import PatchDiscriminator, hinge_loss
from flashdiffusion.training.run import make_stage, train
from logs import read_log


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    assert before.keys() == after.keys()
    return any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("start", "joins"), [(0.0, True), (0.9, False)])
def test_the_discriminator_trains_once_it_has_joined(tmp_path, image_folder, recipe, start, joins):
    config = replace(recipe.autoencoder, adversarial_weight=0.1, adversarial_from=start)
    recipe = replace(recipe, autoencoder=config)
    torch.manual_seed(recipe.seed)
    fresh = {k: m.state_dict() for k, m in make_stage("autoencoder", recipe, tmp_path, None).trainable().items()}
    train("autoencoder", [image_folder], recipe, tmp_path, max_steps=3)  # at progress 0, 1/3 and 2/3
    trained = torch.load(tmp_path / "autoencoder.ckpt", weights_only=True)["modules"]
    assert _changed(fresh["autoencoder"], trained["autoencoder"])
    assert _changed(fresh["discriminator"], trained["discriminator"]) == joins
    rows = read_log(tmp_path / "autoencoder.csv")
    assert [("adversarial" in row, "discriminator" in row) for row in rows] == [(joins, joins)] * 3


def test_the_discriminator_joins_in_the_middle_and_the_log_gains_its_columns(tmp_path, image_folder, recipe):
    config = replace(recipe.autoencoder, adversarial_weight=0.1, adversarial_from=0.5)
    train("autoencoder", [image_folder], replace(recipe, autoencoder=config), tmp_path, max_steps=4)
    rows = read_log(tmp_path / "autoencoder.csv")
    assert [("discriminator" in row, "adversarial" in row) for row in rows] == [(False, False)] * 2 + [(True, True)] * 2


def test_the_adversarial_term_moves_the_autoencoder(tmp_path, image_folder, recipe):
    weights = []
    for weight in (0.1, 0.5):
        config = replace(recipe.autoencoder, adversarial_weight=weight, adversarial_from=0.0)
        out = tmp_path / str(weight)
        train("autoencoder", [image_folder], replace(recipe, autoencoder=config), out, max_steps=2)
        weights.append(torch.load(out / "autoencoder.ckpt", weights_only=True)["modules"]["autoencoder"])
    assert _changed(*weights)


def test_the_hinge_loss_is_zero_beyond_its_margins_and_linear_within():
    sure = torch.tensor([1.0, 3.0])
    assert float(hinge_loss(sure, -sure)) == 0
    undecided = torch.zeros(4)
    assert float(hinge_loss(undecided, undecided)) == 1
    assert float(hinge_loss(torch.tensor([0.5]), torch.tensor([-2.0]))) == 0.25


def test_the_discriminator_gives_one_score_per_patch():
    assert PatchDiscriminator()(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 4, 6)
