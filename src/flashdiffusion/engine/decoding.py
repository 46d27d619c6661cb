"""Latents to images, a few at a time; on a GPU they are copied while the next steps run."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.engine.capacity import Failure, Limit, in_parts
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.slots import Outcome, power_of_two
from flashdiffusion.priors import LatentPrior

ROWS = 64  # latents that are decoded together


@dataclass(frozen=True)
class Decoded:
    """An image (3, H, W) in [0, 1] on the CPU, or why there is none; gflop and seconds of its decoding."""

    outcome: Outcome
    image: Tensor | None
    gflop: float = 0.0
    seconds: float = 0.0
    failed: str | None = None


class Decoding:
    """Decodes what has left the engine.

    Args:
        static: fill every call up to a power of two, so that a compiled decoder sees few shapes.
    """

    def __init__(self, prior: LatentPrior, costs: Costs, static: bool = False) -> None:
        self.prior, self.costs, self.static = prior, costs, static
        self.limit = Limit(ROWS)
        self.cuda = prior.device.type == "cuda"
        self.copying: deque[tuple[list[Decoded], torch.cuda.Event | None]] = deque()

    def decode(self, outcomes: Sequence[Outcome]) -> Iterator[Decoded]:
        """Decode them; give what is there: these on a CPU, and on a GPU those before, whose copies are done."""
        for shape in {outcome.z.shape: None for outcome in outcomes}:
            alike = [outcome for outcome in outcomes if outcome.z.shape == shape]
            for part, result in in_parts(self._decode, alike, self.limit):
                if isinstance(result, Failure):
                    yield from (Decoded(outcome, None, failed=result.reason) for outcome in part)
                    continue
                event = torch.cuda.Event() if self.cuda else None
                if event is not None:
                    event.record(torch.cuda.current_stream(self.prior.device))
                images, gflop, seconds = result
                done = [Decoded(*one, seconds) for one in zip(part, images, gflop, strict=True)]
                self.copying.append((done, event))
        yield from self._copied(1 if self.cuda else 0)

    def rest(self) -> Iterator[Decoded]:
        """Images that are still being copied."""
        return self._copied(0)

    @torch.no_grad()
    def _decode(self, outcomes: list[Outcome]) -> tuple[Tensor, list[float], float]:
        """Images, and the GFLOP and seconds of each."""
        began = time.perf_counter()
        z = torch.stack([outcome.z for outcome in outcomes])
        if self.static:
            z = torch.cat([z, z[-1:].expand(power_of_two(len(z)) - len(z), *z.shape[1:])])
        images, gflop = self.costs.call([("decode", z.shape[1:])] * len(z), lambda: self.prior.decode(z))
        images = images[: len(outcomes)].float().clamp(0, 1)
        images = images.to("cpu", non_blocking=self.cuda)
        return images, gflop[: len(outcomes)], (time.perf_counter() - began) / len(outcomes)

    def _copied(self, left: int) -> Iterator[Decoded]:
        """Images whose copies are done, but for the `left` copies started last."""
        while len(self.copying) > left:
            done, event = self.copying.popleft()
            if event is not None:
                event.synchronize()
            yield from done
