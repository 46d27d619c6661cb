"""Random LPIPS weights in the published layout."""

import torch

from flashdiffusion.metrics.lpips import LPIPS


def lpips_weights(net: str) -> dict[str, torch.Tensor]:
    """Make them: torchvision's key names, and the heads."""
    torch.manual_seed(0)
    state = LPIPS(net).state_dict()
    named = {}
    for key, value in state.items():
        name = f"lin{key.split('.')[1]}.weight" if key.startswith("heads.") else key
        named[name] = value.abs() if name.startswith("lin") else value
    return named
