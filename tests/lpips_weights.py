"""Random LPIPS weights in the published layout."""

import torch

from flashdiffusion.metrics.lpips import LPIPS

# Which layers each part of the `lpips` package's networks begins with.
SLICES = {"alex": (0, 2, 5, 8, 10), "squeeze": (0, 2, 5, 8, 10, 11, 12), "vgg": (0, 4, 9, 16, 23)}


def lpips_weights(net: str) -> dict[str, torch.Tensor]:
    """Make them: torchvision's key names, and the heads."""
    torch.manual_seed(0)
    state = LPIPS(net).state_dict()
    named = {}
    for key, value in state.items():
        name = f"lin{key.split('.')[1]}.weight" if key.startswith("heads.") else key
        named[name] = value.abs() if name.startswith("lin") else value
    return named


def package_weights(net: str) -> dict[str, torch.Tensor]:
    """The same weights as the `lpips` package names them."""
    named = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
    for key, value in lpips_weights(net).items():
        part, rest = key.split(".", 1)
        if part.startswith("lin"):
            named |= {f"{part}.model.1.weight": value, f"lins.{part[3:]}.model.1.weight": value}
        else:
            layer = int(rest.split(".")[0])
            named[f"net.slice{sum(layer >= first for first in SLICES[net])}.{rest}"] = value
    return named


def backbone_weights(net: str) -> dict[str, torch.Tensor]:
    """The same backbone as torchvision's file has it, with something of the classifier."""
    backbone = {key: value for key, value in lpips_weights(net).items() if key.startswith("features.")}
    return backbone | {"classifier.1.weight": torch.zeros(2, 2)}
