"""A random generator of a picture's own."""

from hashlib import blake2b

import torch


def picture_generator(seed: int, picture_id: str, purpose: str = "measurement") -> torch.Generator:
    """CPU generator that depends on (seed, picture_id, purpose) alone.

    A picture's random numbers are then the same on every machine, in every batch and order.
    """
    digest = blake2b(f"{seed}/{purpose}/{picture_id}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))
