"""A random generator of an image's own."""

from hashlib import blake2b

import torch


def image_generator(seed: int, image_id: str, purpose: str = "measurement") -> torch.Generator:
    """CPU generator that depends on (seed, image_id, purpose) alone.

    An image's random numbers are then the same on every machine, in every batch and order.
    """
    digest = blake2b(f"{seed}/{purpose}/{image_id}".encode(errors="surrogatepass"), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))
