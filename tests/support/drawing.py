"""Pictures that differ as photographs do."""

import numpy as np
from PIL import Image, ImageDraw


def scene(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Return a picture of shapes in many colours on a ground that changes: always the same for a seed."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 256, size=(3, 4, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(ground)
    for _ in range(12):
        left, top = rng.integers(-20, size[0]), rng.integers(-20, size[1])
        width, height = rng.integers(20, size[0] // 2), rng.integers(20, size[1] // 2)
        colour = tuple(rng.integers(0, 256, size=3).tolist())
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((left, top, left + width, top + height), fill=colour)
    return ground
