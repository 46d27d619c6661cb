"""Each of DeepInverse's operators is restored, or refused with one line; never a traceback."""

import pytest
import torch

from deepinverse import CASES, theirs_with_us

pytestmark = pytest.mark.filterwarnings("ignore")
# What each says that is not restored; the reasons of its A are DeepInverse's own.
REFUSED = {
    "Denoising, LogPoissonNoise": "expected the [0, 1] scale",
    "MRI": "its A takes no RGB images",
    "DynamicMRI": "its A takes no RGB images",
    "SequentialMRI": "its A takes no RGB images",
    "MultiCoilMRI": "its A takes no RGB images",
    "NonCartesianMRI": "not tried",
    "RadioInterferometry": "not tried",
    "PET": "not tried",
    "TomographyWithAstra": "not tried",
    "RandomPhaseRetrieval": "its A takes no RGB images",
    "StructuredRandomPhaseRetrieval": "refused",
    "Haze": "its A takes no RGB images",
    "SinglePhotonLidar": "its A takes no RGB images",
    "Scattering": "expected floats",
    "UltrasoundPlaneWave": "not made",
    "Ptychography": "not made",
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_restored_or_refused_in_one_line(name, tiny_pipeline):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cells = theirs_with_us(tiny_pipeline, name, x, steps=3, start="flash")
    assert "\n" not in cells
    assert REFUSED.get(name, "**") in cells
