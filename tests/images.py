"""Pictures that tests make."""

import numpy as np
from PIL import Image


def smooth_image(generator: np.random.Generator, width: int = 48, height: int = 40) -> Image.Image:
    """A colour gradient with two low-frequency waves and a few rectangles."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y / height)[..., None], (x / width)[..., None]
    corners = generator.uniform(0, 255, (4, 3))
    image = corners[0] * (1 - x) * (1 - y) + corners[1] * x * (1 - y) + corners[2] * (1 - x) * y + corners[3] * x * y
    for _ in range(2):
        wave = np.sin(2 * np.pi * (generator.uniform(0, 2) * x + generator.uniform(0, 2) * y + generator.uniform()))
        image = image + wave * generator.uniform(-40, 40, 3)
    for _ in range(3):
        top, left = generator.integers(0, height - 8), generator.integers(0, width - 8)
        rows, columns = slice(top, top + generator.integers(4, 20)), slice(left, left + generator.integers(4, 20))
        image[rows, columns] = generator.uniform(0, 255, 3)
    return Image.fromarray(image.clip(0, 255).round().astype(np.uint8))
