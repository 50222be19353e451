"""Pictures by which two ways to run a model are compared before one takes the other's place."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.engine.model.transform import Pixels, Transform

DRAWN = 8


def probe_pictures(transform: Transform) -> npt.NDArray[np.uint8]:
    """Return pictures ready for the model, always the same ones."""
    return np.stack(list(_drawn_pictures(transform.crop_size)))  # [DRAWN, side, side, 3]


def _drawn_pictures(side: int) -> Iterator[Pixels]:
    """Yield colours laid over each other in ever finer patches, as in nature, the later ones ever harsher."""
    random = np.random.default_rng(0)
    for number in range(DRAWN):
        picture = np.zeros((side, side, 3), np.float32)
        for patches in (2, 4, 8, 16, 32, 64):
            colours = random.integers(0, 256, (patches, patches, 3), dtype=np.uint8)
            layer = Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)
            picture += (np.asarray(layer, np.float32) - 127.5) * patches ** (number / 8 - 1)
        spread = max(float(picture.std()), 1.0)
        yield np.clip(picture * 60 / spread + 127.5, 0, 255).astype(np.uint8)
