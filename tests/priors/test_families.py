"""The contract of every family of denoisers and every kind of autoencoder: one convention, whatever is behind it."""

import json
import shutil
import warnings
from dataclasses import asdict

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DModel,
)
from torch import nn

from flashdiffusion import FlashPipeline, GaussianBlur, Settings
from flashdiffusion.errors import InputError
from flashdiffusion.priors import Conditions, DiffusersAutoencoder, IdentityAutoencoder, LatentPrior
from flashdiffusion.priors.denoisers import FAMILIES as REGISTERED
from flashdiffusion.priors.denoisers import Denoiser
from flashdiffusion.priors.folder import save_component
from flashdiffusion.priors.latent import load_autoencoder
from flashdiffusion.schedule import NoiseSchedule
from priors.tiny_families import AUTOENCODERS, BETAS, FAMILIES, UNET, autoencoders, write_family

SOLVERS = ("latent-dps", "gml-dps", "psld", "resample", "proximal")
PHYSICS = GaussianBlur(1.0, noise_std=0.5)  # so much that inner problems are soon solved
CHEAP = {"settings": Settings(steps=2, fit_iterations=1)}
TOLD = {
    "ldm": {},
    "sd1": {"prompt": "a cat", "guidance_scale": 3.0},
    "sd2": {"prompt": "a cat", "negative_prompt": "dog", "guidance_scale": 2.0},
    "sdxl": {"prompt": "a cat", "guidance_scale": 3.0},
    "dit": {"class_label": 3, "guidance_scale": 4.0},
    "sd3": {"prompt": "a cat", "guidance_scale": 3.0},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: write_family(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def pipelines(folders):
    """Every family, told nothing."""
    return {name: FlashPipeline.from_pretrained(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def told(folders):
    """Every family, told what it can be."""
    return {name: FlashPipeline.from_pretrained(folder, **TOLD[name]) for name, folder in folders.items()}


def _latents(prior, count=2):
    return torch.randn(count, *prior.latent_shape((16, 16)), generator=torch.Generator().manual_seed(0))


def test_every_registered_family_is_in_the_suite(pipelines):
    assert {type(one.prior.denoiser).__name__ for one in pipelines.values()} == set(REGISTERED)


# -- what a family's network is told ---------------------------------------------------------------------


def _called_directly(name, prior, z, times):
    """The network's output as the family's own pipeline in diffusers asks for it, without guidance."""
    network, family = prior.denoiser, prior.family
    rows = [
        getattr(family, f"told_{n}")[:1].expand(len(z), *[-1] * (getattr(family, f"told_{n}").ndim - 1))
        for n in range(family._told)
    ]
    if name == "dit":
        return network(z, timestep=times, class_labels=rows[0]).sample[:, : z.shape[1]]
    if name == "sd3":
        return network(z, encoder_hidden_states=rows[0], pooled_projections=rows[1], timestep=times).sample
    if name == "sdxl":
        ids = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]]).expand(len(z), -1)
        more = {"added_cond_kwargs": {"text_embeds": rows[1], "time_ids": ids}}
        return network(z, times, encoder_hidden_states=rows[0], **more).sample
    return network(z, times, *rows).sample


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_z0_is_that_of_diffusers_own_step(pipelines, name):
    _check_z0(name, pipelines[name].prior)


@torch.no_grad()
def test_z0_of_stable_diffusion_3_5_is_that_of_diffusers_own_step(folders, tmp_path):
    """Its attention normalises queries and keys, and its first layers attend twice."""
    shutil.copytree(folders["sd3"], tmp_path, dirs_exist_ok=True)
    config = SD3Transformer2DModel.load_config(tmp_path / "transformer")
    more = {"qk_norm": "rms_norm", "dual_attention_layers": [0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SD3Transformer2DModel.from_config({**config, **more})
    for name, parameter in model.named_parameters():  # some are zeros, or ones
        if "norm" in name:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "transformer")
    _check_z0("sd3", FlashPipeline.from_pretrained(tmp_path).prior)


def _check_z0(name, prior):
    z = _latents(prior)
    count = len(prior.schedule)
    for i in (1, 400, 900, count - 1, count):
        ours = prior.denoise(z, torch.full((len(z),), i))
        if name == "sd3":
            scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
            scheduler.set_timesteps(sigmas=[i / count])  # and from there to 0
            sigma, time = float(scheduler.sigmas[0]), scheduler.timesteps[0]
            x = z * ((1 - sigma) ** 2 + sigma**2) ** 0.5
            theirs = scheduler.step(_called_directly(name, prior, x, time.expand(len(z))), time, x).prev_sample
        else:
            scheduler = DDIMScheduler.from_config(prior.scheduler.config, clip_sample=False)
            scheduler.set_timesteps(1000)
            output = _called_directly(name, prior, z, torch.full((len(z),), i - 1))
            theirs = scheduler.step(output, i - 1, z).pred_original_sample
        # Where there is no signal, a of the floor is 2⁻¹²: ẑ0 has a z, or the network sees z / (a + b).
        floor = 2 * 2**-12 * float(z.abs().max()) if i == count and prior.schedule.without_signal else 0.0
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()) + floor, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_batch_gives_what_its_images_give(told, name):
    prior = told[name].prior
    z, i = _latents(prior, 3), torch.tensor([20, 500, 900])
    batch = prior.denoise(z, i)
    for n in range(3):
        torch.testing.assert_close(batch[n : n + 1], prior.denoise(z[n : n + 1], i[n : n + 1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [one for one in FAMILIES if TOLD[one]])
@torch.no_grad()
def test_guidance_goes_on_from_without_to_with(folders, told, name):
    """out = without + w (with - without), of the network's output; a prompt or a class changes it."""
    prior = told[name].prior
    scale, changes = TOLD[name]["guidance_scale"], {"guidance_scale": 1.0, "negative_prompt": ""}
    given = Conditions(**{**TOLD[name], **changes})
    nothing = Conditions(prompt=TOLD[name].get("negative_prompt", ""))
    if name == "sd3":  # without any text T5 is not asked; beside some, it is asked for the empty text
        nothing = Conditions(negative_prompt="dog", guidance_scale=2.0)
    z, times = _latents(prior), torch.tensor([20, 600])

    def with_one_row(conditions):
        rows = [one[:1].expand(len(z), *one.shape[1:]) for one in prior.family.encode(conditions)]
        return prior.family.predict(z, times, *rows)[:, : z.shape[1]]

    there, without = with_one_row(given), with_one_row(nothing)
    assert not torch.allclose(there, without, atol=1e-4)
    torch.testing.assert_close(prior.family(z, times), without + scale * (there - without), atol=1e-4, rtol=1e-4)


def test_no_text_is_what_the_model_was_trained_on_as_none(pipelines, told):
    """Zeros for SDXL, whose index says so; for SD3 zeros in T5's place."""
    xl = pipelines["sdxl"].prior.family
    assert not xl.told_0.any() and not xl.told_1.any()
    assert xl.told_0.shape == (1, 8, 16) and xl.told_1.shape == (1, 8)
    sd3 = pipelines["sd3"].prior.family
    assert sd3.told_0[:, :8].any() and not sd3.told_0[:, 8:].any()
    assert told["sd3"].prior.family.told_0[:, 8:].any()
    assert pipelines["sd1"].prior.family.told_0.any()


@pytest.mark.parametrize("told", [{"prompt": "a cat"}, {"negative_prompt": "dog", "guidance_scale": 2.0}])
def test_text_for_a_t5_that_is_missing_is_warned_of(folders, tmp_path, told):
    shutil.copytree(folders["sd3"], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "text_encoder_3")
    for named, warns in (["transformers", "T5EncoderModel"], True), ([None, None], False):
        (tmp_path / "model_index.json").write_text(json.dumps({"text_encoder_3": named}))
        pipe = FlashPipeline.from_pretrained(tmp_path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipe.set_conditions(**told)
        said = [str(one.message) for one in caught]
        assert [("no folder text_encoder_3" in one, "from_pretrained is given" in one) for one in said] == (
            [(True, True)] if warns else []
        )


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("load", [FlashPipeline.from_pretrained, LatentPrior.from_pretrained])
def test_t5_is_fetched_for_any_text(folders, tmp_path, monkeypatch, load, saved):
    """Given as a negative prompt alone, or saved with the model."""
    conditions = Conditions(negative_prompt="dog", guidance_scale=2.0)
    asked = []

    def fetched(source, revision, variant, token, subfolder, text):
        asked.append(text)
        return folder

    monkeypatch.setattr("flashdiffusion.priors.folder._download", fetched)
    folder = folders["sd3"]
    if saved:
        folder = tmp_path / "saved"
        FlashPipeline.from_pretrained(folders["sd3"], **asdict(conditions)).save_pretrained(folder)
    given = asdict(conditions) if load.__self__ is FlashPipeline else {"conditions": conditions}
    prior = load("owner/name", **({} if saved else given))
    assert asked[-1] and getattr(prior, "prior", prior).conditions == conditions
    if not saved:
        load("owner/name")
        assert not asked[-1]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("sd1", "abcdefghijkl", r"prompt of 14 tokens; tokenizer takes 8,"),
        ("sd3", "abcdefghijkl", r"prompt of 14 tokens; tokenizer, tokenizer_2 takes 8,"),
    ],
)
def test_a_prompt_that_is_cut_is_warned_of(folders, name, text, said):
    with pytest.warns(UserWarning, match=said):
        FlashPipeline.from_pretrained(folders[name], prompt=text)


def test_a_prompt_can_be_set_afterwards(folders, pipelines, told):
    pipe = FlashPipeline.from_pretrained(folders["sd1"])
    z, i = _latents(pipe.prior), torch.tensor([20, 600])
    assert torch.equal(pipe.prior.denoise(z, i), pipelines["sd1"].prior.denoise(z, i))
    assert pipe.set_conditions(**TOLD["sd1"]) is pipe
    assert torch.equal(pipe.prior.denoise(z, i), told["sd1"].prior.denoise(z, i))
    pipe.set_conditions()
    assert torch.equal(pipe.prior.denoise(z, i), pipelines["sd1"].prior.denoise(z, i))


def test_text_moves_and_is_cast_with_the_network(folders):
    pipe = FlashPipeline.from_pretrained(folders["sdxl"], torch_dtype=torch.bfloat16)
    assert pipe.prior.family.told_0.dtype == pipe.prior.dtype == torch.bfloat16
    pipe.set_conditions(prompt="a cat")
    assert pipe.prior.family.told_0.dtype == torch.bfloat16
    assert pipe.prior.denoise(_latents(pipe.prior), torch.tensor([5, 500])).dtype == torch.float32


# -- restoring, saving -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:this model has no severity encoder")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_solver_restores(pipelines, name):
    for solver, width in zip(SOLVERS, (16, 16, 24, 16, 24), strict=True):
        y = torch.rand(1, 3, 16, width, generator=torch.Generator().manual_seed(1))
        result = pipelines[name](y, PHYSICS, solver=solver, start="noise", **CHEAP)
        assert result.images.shape == y.shape and bool(result.images.isfinite().all()), solver
        assert result.nfe.tolist() == [2], solver


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_what_is_saved_is_what_is_loaded(told, tmp_path, name):
    told[name].save_pretrained(tmp_path)
    again = FlashPipeline.from_pretrained(tmp_path)
    prior, other = told[name].prior, again.prior
    assert other.conditions == prior.conditions == Conditions(**TOLD[name])
    z, i = _latents(prior), torch.tensor([20, 600])
    assert torch.equal(other.denoise(z, i), prior.denoise(z, i))
    assert torch.equal(other.decode(z), prior.decode(z)) and torch.equal(other.abar, prior.abar)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["denoiser"] == ["diffusers", type(prior.denoiser).__name__]
    if TOLD[name]:  # what is told now wins over what was saved
        untold = FlashPipeline.from_pretrained(tmp_path, guidance_scale=1.0)
        assert untold.prior.conditions == Conditions()
        untold.save_pretrained(tmp_path)
        assert FlashPipeline.from_pretrained(tmp_path).prior.conditions == Conditions()


# -- schedules -------------------------------------------------------------------------------------------

SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled linear": BETAS,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "beta_start": 0.0001, "beta_end": 0.02},
    "trained betas": {"trained_betas": torch.linspace(0.001, 0.05, 200).tolist(), "num_train_timesteps": 200},
    "zero terminal SNR": {**BETAS, "rescale_betas_zero_snr": True},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "flow, shifted": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "flow, by its size": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    "flow of a multistep solver": {
        "_class_name": "UniPCMultistepScheduler",
        "use_flow_sigmas": True,
        "flow_shift": 5.0,
        "prediction_type": "flow_prediction",
    },
}
STD = 0.6  # of the Gaussian latents


class _Gaussian(Denoiser):
    """Knows latents N(0, STD² I) exactly, and predicts as its schedule wants it."""

    network = UNet2DModel
    sample_size, tokens, channels, channels_out = 8, 1024, 3, 3

    def __init__(self, prediction):
        super().__init__(nn.Identity())
        self.prediction = prediction

    def predict(self, z, times, *told):
        z = z.double()
        if self.prediction == "flow_prediction":
            t = (times.double() / 1000).view(-1, 1, 1, 1)
            z0 = (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2) * z
            return (z - z0) / t
        a2 = self.abar[times].view(-1, 1, 1, 1)
        z0 = a2.sqrt() * STD**2 / (a2 * STD**2 + 1 - a2) * z
        eps = (z - a2.sqrt() * z0) / (1 - a2).sqrt()
        return {"sample": z0, "epsilon": eps, "v_prediction": a2.sqrt() * eps - (1 - a2).sqrt() * z0}[self.prediction]


def _cases():
    for name, config in SCHEDULES.items():
        flow = "flow" in name
        for prediction in ("flow_prediction",) if flow else ("epsilon", "v_prediction", "sample"):
            if not (config.get("rescale_betas_zero_snr") and prediction == "epsilon"):
                yield pytest.param(config, prediction, id=f"{name}, {prediction}")


@pytest.mark.parametrize(("config", "prediction"), list(_cases()))
def test_a_gaussian_is_denoised_exactly_on_every_schedule(config, prediction):
    from flashdiffusion.schedule import make_scheduler

    scheduler = make_scheduler(config)
    if prediction != "flow_prediction":
        scheduler.register_to_config(prediction_type=prediction)
    network = _Gaussian(prediction)
    prior = LatentPrior(IdentityAutoencoder(), network, scheduler)
    network.abar = prior.schedule.abar[1:]
    count = len(prior.schedule)
    i = torch.tensor([1, count // 2, count - 1, count])
    a2 = prior.schedule.abar[i].view(-1, 1, 1, 1)
    z = (a2 * STD**2 + 1 - a2).sqrt() * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    exact = a2.sqrt() * STD**2 / (a2 * STD**2 + 1 - a2) * z
    # ε is divided by a, which makes rounding larger by 1 / a.
    rounding = 1e-5 if prediction != "epsilon" else 1e-5 + 3e-7 / float(a2.min().sqrt())
    torch.testing.assert_close(
        prior.denoise(z, i), exact, atol=rounding + 2 * 2**-12 * prior.schedule.without_signal, rtol=1e-4
    )
    torch.testing.assert_close(prior.denoise(z, i)[:3], exact[:3], atol=rounding, rtol=1e-4)


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_snr_is_matched_on_every_schedule(config):
    schedule = NoiseSchedule.from_config(config, tokens=1024)
    abar = schedule.abar[1:]
    assert bool((schedule.abar.diff() < 0).all()) and float(abar[-1]) > 0
    assert torch.equal(schedule.grid().match((1 - abar) / abar), torch.arange(1, len(schedule) + 1))
    assert len(schedule.geometric(10)) <= 10 and int(schedule.geometric(10).times[-1]) == len(schedule)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_times_of_flow_matching_are_those_of_diffusers(shift):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = NoiseSchedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift})
    torch.testing.assert_close(schedule.times[1:], theirs.timesteps.flip(0))
    a, b = schedule.abar.sqrt(), (1 - schedule.abar).sqrt()
    torch.testing.assert_close((b / (a + b))[1:-1].float(), theirs.sigmas.flip(0)[:-1])
    assert schedule.without_signal and float(schedule.abar[-1]) <= 2**-24


def test_a_shift_by_the_images_size_is_that_of_diffusers():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    theirs.set_timesteps(sigmas=[n / 1000 for n in range(1000, 0, -1)], mu=mu)
    schedule = NoiseSchedule.from_config(config, tokens=1024)
    torch.testing.assert_close(schedule.times[1:], theirs.timesteps.flip(0), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5},
            "'EDMEulerScheduler', which has another kind of noise",
        ),
        ({"_class_name": "ScoreSdeVeScheduler"}, "'ScoreSdeVeScheduler', which has another kind of noise"),
        (
            {"_class_name": "CMStochasticIterativeScheduler"},
            "which has another kind of noise schedule; expected a sched",
        ),
        ({"beta_schedule": "quadratic"}, "quadratic"),
        ({"beta_shedule": "linear"}, "unknown key 'beta_shedule'; did you mean beta_schedule?"),
        ({"_class_name": "DDIMScheduler", "beta_strat": 0.1}, "unknown key 'beta_strat'; did you mean beta_start?"),
        (
            {"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 3.0},
            "snr_shift_scale is 3.0, which is not supp",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type is 'continuous'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas is True"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}, "shift is 0; expected a number above 0"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "3"}, "shift is '3'; expected a number above 0"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "does not say its sample_size",
        ),
        (
            {
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "use_dynamic_shifting": True,
                "base_image_seq_len": 256,
                "max_image_seq_len": 256,
            },
            "base_image_seq_len and max_image_seq_len are both 256; expected two numbers",
        ),
    ],
    ids=str,
)
def test_schedules_that_are_not_supported_name_the_key(config, reason):
    with pytest.raises(InputError) as caught:
        NoiseSchedule.from_config(config, None if "sample_size" in reason else 64)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_noise_says_nothing_where_there_is_no_signal():
    scheduler = DDPMScheduler(**BETAS, rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match=r"'epsilon' with a schedule whose last step has no signal .*expected v_pred"):
        LatentPrior(IdentityAutoencoder(), UNet2DModel(in_channels=3, out_channels=3, **UNET), scheduler)


# -- autoencoders ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:this model has no severity encoder")
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_autoencoder_loads_restores_and_saves(name, tmp_path):
    network = autoencoders()[name]
    save_component(network, tmp_path / "vae")
    autoencoder = load_autoencoder(tmp_path / "vae")
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = network.encode(2 * x - 1)
        raw = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded[0]
        mean = 0.1 if name in ("kl, shifted", "kl, per channel") else 0.0
        gain = {"kl, per channel": 1.5, "tiny": 1.0, "dc": 0.4}.get(name, 3.0)
        torch.testing.assert_close(autoencoder.encode(x), (raw - mean) * gain, atol=1e-5, rtol=1e-4)
        decoded = (network.decode(raw).sample + 1) / 2
        torch.testing.assert_close(autoencoder.decode(autoencoder.encode(x)), decoded, atol=1e-4, rtol=1e-4)
    assert (autoencoder.channels, autoencoder.factor) == (raw.shape[1], 2)

    denoiser = UNet2DModel(in_channels=raw.shape[1], out_channels=raw.shape[1], **UNET)
    pipe = FlashPipeline(LatentPrior(autoencoder, denoiser, DDPMScheduler(**BETAS)))
    for solver in SOLVERS:
        result = pipe(x[:1], PHYSICS, solver=solver, start="noise", **CHEAP)
        assert bool(result.images.isfinite().all()), solver
    pipe.save_pretrained(tmp_path / "saved")
    again = load_autoencoder(tmp_path / "saved" / "autoencoder")
    torch.testing.assert_close(again.encode(x), autoencoder.encode(x))  # weights in another order


def test_a_scaling_factor_of_zero_is_refused():
    network = autoencoders()["kl"]
    network.register_to_config(scaling_factor=0)
    with pytest.raises(InputError, match=r"scaling_factor 0 over latents_std .*expected numbers above 0"):
        DiffusersAutoencoder(network)


@pytest.mark.parametrize(
    ("upcast", "dtype", "kept"),
    [(True, "float16", "float32"), (False, "float16", "float16"), (True, "bfloat16", "bfloat16")],
)
def test_an_autoencoder_that_overflows_in_float16_stays_in_float32(upcast, dtype, kept, tmp_path):
    network = autoencoders()["kl"]
    network.register_to_config(force_upcast=upcast)
    autoencoder = DiffusersAutoencoder(network).to(getattr(torch, dtype))
    assert autoencoder.model.dtype == getattr(torch, kept)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=getattr(torch, dtype))
    assert autoencoder.decode(z).dtype == z.dtype and bool(autoencoder.decode(z).isfinite().all())
    save_component(network, tmp_path)
    assert load_autoencoder(tmp_path, dtype=getattr(torch, dtype)).model.dtype == getattr(torch, kept)


def test_a_kl_model_that_does_not_say_so_is_not_upcast(tmp_path):
    """diffusers fills in true, also for Stable Diffusion 1.x, which needs it not."""
    save_component(autoencoders()["kl"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["force_upcast"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_autoencoder(tmp_path).model.config.force_upcast is False


@pytest.mark.filterwarnings("ignore:this model has no severity encoder")
def test_a_tiny_autoencoder_is_a_distilled_decoder_of_its_big_brother(folders, tmp_path):
    tiny = autoencoders()["tiny"]
    save_component(tiny, tmp_path / "tiny")
    with pytest.warns(UserWarning, match=r"differ by .* is it of another model's latents\?"):
        pipe = FlashPipeline.from_pretrained(folders["sd1"], distilled_decoder=tmp_path / "tiny")
    z = _latents(pipe.prior)
    with torch.no_grad():
        torch.testing.assert_close(pipe.distilled_decoder(z), (tiny.decode(z).sample + 1) / 2)
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    physics = GaussianBlur(1.0, noise_std=0.05)
    result = pipe(y, physics, solver="latent-dps", start="noise", steps=2, distilled="all")
    assert bool(result.images.isfinite().all())
    pipe.save_pretrained(tmp_path / "saved")
    with pytest.warns(UserWarning, match="another model's latents"):
        again = FlashPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.distilled_decoder(z), pipe.distilled_decoder(z))


# -- a denoiser of one's own -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:this model has no severity encoder")
def test_a_function_of_your_own_is_a_prior():
    def denoise(z, i):
        a2 = prior.abar[i].view(-1, 1, 1, 1)
        return a2.sqrt() * STD**2 / (a2 * STD**2 + 1 - a2) * z

    prior = LatentPrior.of(denoise, BETAS)
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    result = FlashPipeline(prior)(y, GaussianBlur(1.0, noise_std=0.05), steps=2)
    assert result.nfe.tolist() == [2] and bool(result.images.isfinite().all())
    z, i = torch.randn(2, 3, 8, 8), torch.tensor([1, 1000])
    assert torch.equal(prior.denoise(z, i), denoise(z, i))
    with pytest.raises(InputError, match="a prior of your own function cannot be saved"):
        prior.save_pretrained("nowhere")


def test_a_function_of_your_own_takes_a_flows_schedule_and_an_autoencoder():
    network, seen = nn.Conv2d(4, 4, 1), []

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, z, i):
            seen.append(i.tolist())
            return self.network(z)

    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    prior = LatentPrior.of(Own(), flow, DiffusersAutoencoder(autoencoders()["kl"]), unit=2, sample_size=8)
    assert len(prior.schedule) == 1000 and (prior.sample_size, prior.unit) == (16, 4)
    z = _latents(prior)
    assert prior.prediction == "sample"
    assert torch.equal(prior.denoise(z, torch.tensor([1, 1000])), network(z)) and seen == [[1, 1000]]
    assert prior.to(torch.bfloat16).dtype == torch.bfloat16  # it moves with the prior
    with pytest.raises(InputError, match="denoise is a int; expected a function"):
        LatentPrior.of(3)


# -- memory ----------------------------------------------------------------------------------------------


def _kept(prior, z):
    """Bytes that autograd keeps for the gradient of D(ẑ0(z)), and that gradient."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    z = z.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = prior.decode(prior.denoise(z, torch.tensor([400, 800]))).square().sum()
    return kept, torch.autograd.grad(loss, z)[0]


@pytest.mark.parametrize("name", ["ldm", "sd1", "dit", "sd3"])
def test_gradient_checkpointing_keeps_less_for_the_same_gradient(folders, name):
    pipe = FlashPipeline.from_pretrained(folders[name])
    z = _latents(pipe.prior)
    whole, expected = _kept(pipe.prior, z)
    assert pipe.enable_gradient_checkpointing() is pipe
    less, gradient = _kept(pipe.prior, z)
    torch.testing.assert_close(gradient, expected)
    assert less < 0.75 * whole


def test_slices_and_tiles_of_diffusers_are_used_where_they_exist(folders):
    pipe = FlashPipeline.from_pretrained(folders["sd1"])
    z, i = _latents(pipe.prior), torch.tensor([5, 500])
    expected = pipe.prior.denoise(z, i)
    pipe.enable_attention_slicing(1).enable_vae_tiling()
    torch.testing.assert_close(pipe.prior.denoise(z, i), expected, atol=1e-4, rtol=1e-4)
    assert pipe.prior.autoencoder.model.use_tiling
    with pytest.raises(InputError, match="VQModel has no tiling; restore the picture in tiles, by tile=256"):
        FlashPipeline.from_pretrained(folders["ldm"]).enable_vae_tiling()
    with pytest.raises(InputError, match="a DiTTransformer2DModel has no attention slicing"):
        FlashPipeline.from_pretrained(folders["dit"]).enable_attention_slicing()
    own = FlashPipeline(LatentPrior.of(lambda z, i: z))
    with pytest.raises(InputError, match="gradient checkpointing: neither"):
        own.enable_gradient_checkpointing()
    for offload in (own.enable_model_cpu_offload, own.enable_sequential_cpu_offload):
        with pytest.raises(InputError, match=r"model offload is not supported: .*enable_gradient_checkpointing"):
            offload()


def test_one_that_attends_is_not_cut_into_tiles(pipelines):
    assert (
        pipelines["sd1"].attends
        and pipelines["sd3"].attends
        and not FlashPipeline(LatentPrior.of(nn.Conv2d(3, 3, 1))).attends
    )
    assert FlashPipeline(LatentPrior.of(lambda z, i: z)).attends  # nothing is known of it
