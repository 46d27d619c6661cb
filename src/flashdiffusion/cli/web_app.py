"""`flashdiffusion app`."""

from functools import partial
from typing import Annotated

from flashdiffusion.cli.command import option
from flashdiffusion.cli.options import Lpips
from flashdiffusion.hosting import LOOPBACK

NAME = "app"  # of the command; `cli/app.py` is the list of all


def command(
    host: Annotated[str, option("Address to serve on; 0.0.0.0 lets the network in, without a password.")] = LOOPBACK,
    port: Annotated[int, option("Port; 0: any that is free.")] = 7860,
    open_: Annotated[bool, option("Open the page in the browser.", "--open")] = False,
    max_mb: Annotated[float, option("Largest upload, in megabytes.")] = 20.0,
    max_megapixels: Annotated[float, option("Largest picture, and result, in megapixels.")] = 2.0,
    queue: Annotated[int, option("People who may wait in line; more are turned away.")] = 8,
    lpips: Lpips = None,
    device: Annotated[str | None, option("Torch device, e.g. cuda; default: cuda if there is one.")] = None,
) -> None:
    """Try it on a page in the browser: damage a picture or bring a damaged one, and watch it restored."""
    from flashdiffusion.app.limits import Limits
    from flashdiffusion.app.loading import load
    from flashdiffusion.app.serving import Place, serve
    from flashdiffusion.plugins import LOADED

    limits = Limits(max_mb, max_megapixels, waiting=queue)

    def ready(address: str) -> None:
        print(f"the page is at {address}  (Ctrl+C ends it)", flush=True)
        if open_:
            import webbrowser

            webbrowser.open(address)

    make = partial(load, device, lpips, tuple(LOADED.values()))
    serve(Place(host, port), limits, make, ready, check=device is not None or lpips is not None)
