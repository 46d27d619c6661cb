"""Model folders and measurement files with any value changed: read, or refused in one line, soon and in little room."""

import json
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashdiffusion import FlashPipeline
from flashdiffusion.data import MeasurementFile
from flashdiffusion.errors import FlashDiffusionError
from flashdiffusion.priors import DiffusersAutoencoder, LatentPrior
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import SeverityEncoder

LINUX = sys.platform == "linux"  # elsewhere a process does not tell its peak so
SECONDS, BYTES = 20, 3 * 2**29  # the latter beside what the process holds already, some 0.4 GiB or more
FEW = settings(
    max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BLOCKS = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4}
NESTED = json.loads("[" * 200 + "]" * 200)
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 2, 3, 64, 10**4, 10**6, 10**9, 10**12, 10**40, 10**400, 0.5, -0.5, 1e-320, 1e300]
    ),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), "", "abc", "0.5", "a\nb\x1b\ud800", "x" * 10**5]),
    st.sampled_from([[], {}, [None], [0], [8] * 2, [8] * 3, [-1.0, 1.0], [10**12], ["DownBlock2D"] * 10**4, NESTED]),
    st.integers(),
    st.floats(),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A whole model folder of small untrained networks."""
    torch.manual_seed(0)
    ends = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    autoencoder = DiffusersAutoencoder(
        AutoencoderKL(**BLOCKS, **ends, latent_channels=2, latents_mean=[0.0, 0.1], latents_std=[0.01, 0.02])
    )
    middle = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
    unet = UNet2DModel(sample_size=8, in_channels=2, out_channels=2, **BLOCKS, **middle)
    prior = LatentPrior(autoencoder, unet, DDPMScheduler(num_train_timesteps=20, beta_start=0.01, beta_end=0.3))
    encoder, regressor = SeverityEncoder.from_autoencoder(autoencoder), Regressor(2, 8, (1,), 2, 4)
    presets = FlashPipeline.presets_of()
    folder = tmp_path_factory.mktemp("hostile") / "model"
    FlashPipeline(prior, encoder, 16, regressor, presets=presets).save_pretrained(folder)
    return folder


def _resident(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since it was last reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def _accepted_or_refused(read) -> None:
    """Run it; whatever is raised but an error of ours fails the test, and so does one of two lines, or a long wait."""
    start = time.monotonic()
    before = 0
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of other tests is not this one's
        before = _resident("VmRSS")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except FlashDiffusionError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 2000
    assert time.monotonic() - start < SECONDS
    if LINUX:
        assert _resident("VmHWM") - before < BYTES


def _places(value: Any, above: tuple = ()) -> list[tuple]:
    """The way to each value in JSON, by keys and positions."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(*above, key) for key, _ in items]
    return found + [place for key, one in items for place in _places(one, (*above, key))]


def _changed(data, text: str) -> str:
    """JSON with one value replaced or left out, or text that is cut or nests deeply."""
    value = json.loads(text)
    *above, key = data.draw(st.sampled_from(_places(value)))
    kind = data.draw(st.sampled_from(["replace"] * 8 + ["remove", "cut", "deep"]))
    if kind == "cut":
        return text[: data.draw(st.integers(0, len(text)))]
    if kind == "deep":
        return "[" * 10**5
    at = value
    for step in above:
        at = at[step]
    if kind == "replace":
        at[key] = data.draw(VALUES)
    else:
        del at[key]
    return json.dumps(value)


def _load(folder: Path) -> None:
    pipeline = FlashPipeline.from_pretrained(folder)
    y = torch.full((1, 3, 16, 16), 0.5)
    assert pipeline.severity(y).var.isfinite().all()
    if pipeline.regressor is not None:
        pipeline.regressor(y)


@contextmanager
def _restored(path):
    """Gives the bytes of a file, and writes them back at the end."""
    whole = path.read_bytes()
    try:
        yield whole
    finally:
        path.write_bytes(whole)


@FEW
@given(data=st.data())
def test_configs_of_a_model(model, data):
    path = data.draw(st.sampled_from(sorted(model.rglob("*.json"))))
    with _restored(path) as whole:
        path.write_text(_changed(data, whole.decode()))
        _accepted_or_refused(lambda: _load(model))


def _with_header(data: bytes, change) -> bytes:
    """A safetensors file whose header is changed, and says its own length."""
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length].decode()).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


@FEW
@given(data=st.data())
def test_headers_of_weights(model, data):
    path = data.draw(st.sampled_from(sorted(model.rglob("*.safetensors"))))
    with _restored(path) as whole:
        path.write_bytes(_with_header(whole, lambda text: _changed(data, text)))
        _accepted_or_refused(lambda: _load(model))


@FEW
@given(data=st.data())
def test_headers_of_measurements(tmp_path, data):
    path = tmp_path / "m.safetensors"
    MeasurementFile("a", torch.zeros(3, 4, 4), "gaussian-blur", {"std": torch.ones(1)}, 0.1, "a.png").save(path)

    def change(text: str) -> str:
        header = json.loads(text)
        about = header["__metadata__"]
        if data.draw(st.booleans()):
            return _changed(data, text)
        return json.dumps(header | {"__metadata__": about | {"measurement": _changed(data, about["measurement"])}})

    path.write_bytes(_with_header(path.read_bytes(), change))
    _accepted_or_refused(lambda: MeasurementFile.load(path))
