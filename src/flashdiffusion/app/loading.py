"""What the process that restores loads before the first click, so that it waits for nothing. Torch comes with it."""

from collections.abc import Iterable
from functools import partial

from flashdiffusion.app.damages import FACES
from flashdiffusion.app.told import Restore
from flashdiffusion.plugins import load_plugins


def load(device: str | None, lpips: str | None, plugins: Iterable[str]) -> Restore:
    """Load the metrics and the model of the picture that is there, and give what restores.

    Args:
        device: torch's; None for a GPU if there is one.
        lpips: weights of LPIPS; None for AlexNet's if torch has them already: none are fetched.
        plugins: files that were loaded where this process was started.

    Raises:
        InputError: no such device; weights that are none.
    """
    import torch

    from flashdiffusion.metrics import Metrics

    load_plugins(plugins)
    weights = lpips or _kept()
    metrics = Metrics({"lpips": weights} if weights else {})
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    metrics(picture, picture.flip(2))  # what they are made of is imported when they are first used

    from flashdiffusion.app.restoring import Models, restore

    models = Models(device, metrics)
    models(FACES)
    return partial(restore, models)


def _kept() -> str | None:
    """The network of LPIPS whose weights lie in torch's hub folder."""
    from pathlib import Path

    import torch

    from flashdiffusion.metrics.backbones import BACKBONES

    return "alex" if (Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES["alex"].file).is_file() else None
