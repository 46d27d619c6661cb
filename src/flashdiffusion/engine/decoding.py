"""Latents to images, a few at a time; on a GPU they are copied while the next steps run."""

import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Restored
from flashdiffusion.engine.capacity import Failure, Limit, in_parts
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.slots import InFlight, filled
from flashdiffusion.priors import LatentPrior

ROWS = 64  # latents that are decoded together


class Decoding:
    """Decodes what has left the engine.

    Args:
        static: fill every call up to a power of two, so that a compiled decoder sees few shapes.
    """

    def __init__(self, prior: LatentPrior, costs: Costs, static: bool = False) -> None:
        self.prior, self.costs, self.static = prior, costs, static
        self.limit = Limit(ROWS)
        self.cuda = prior.device.type == "cuda"
        self.copying: deque[tuple[list[InFlight], Tensor, torch.cuda.Event | None]] = deque()

    def decode(self, done: Sequence[InFlight]) -> Iterator[Restored]:
        """Decode what needs it; give what is there: these on a CPU, and on a GPU those before, whose copies are done.

        What failed comes first.
        """
        groups: dict[Hashable, list[InFlight]] = {}
        for one in done:
            if one.result.failed is None:
                groups.setdefault((one.z.shape, one.problem.padding, one.image is None), []).append(one)
            else:
                yield one.result
        for alike in groups.values():
            for part, images in in_parts(self._decode, alike, self.limit):
                if isinstance(images, Failure):
                    for one in part:
                        one.result.fail(images.reason)
                        yield one.result
                    continue
                event = torch.cuda.Event() if self.cuda else None
                if event is not None:
                    event.record(torch.cuda.current_stream(self.prior.device))
                self.copying.append((part, images, event))
        yield from self._copied(1 if self.cuda else 0)

    def rest(self) -> Iterator[Restored]:
        """Images that are still being copied."""
        return self._copied(0)

    @torch.no_grad()
    def _decode(self, part: list[InFlight]) -> Tensor:
        """Images (n, 3, H, W), on their way to the CPU."""
        began = time.perf_counter()
        finished = [one.image for one in part if one.image is not None]
        if finished:
            images, gflop = torch.stack(finished), [0.0] * len(part)
        else:
            z = torch.stack([one.z for one in (filled(part) if self.static else part)])
            images, gflop = self.costs.call([("decode", z.shape[1:])] * len(z), lambda: self.prior.decode(z))
        images = part[0].problem.cropped(images[: len(part)]).float().clamp(0, 1)
        images = images.to("cpu", non_blocking=self.cuda)
        seconds = (time.perf_counter() - began) / len(part)
        for one, own in zip(part, gflop, strict=False):
            one.result.gflop += own
            one.result.seconds += seconds
        return images

    def _copied(self, left: int) -> Iterator[Restored]:
        """Images whose copies are done, but for the `left` copies started last."""
        while len(self.copying) > left:
            part, images, event = self.copying.popleft()
            if event is not None:
                event.synchronize()
            for one, image in zip(part, images, strict=True):
                one.result.finish(image)
                yield one.result
