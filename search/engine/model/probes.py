"""Pictures by which two ways to run a model are compared before one takes the other's place."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.engine.errors import ImageUnreadable
from search.engine.model.preparation import MIN_DECODED_SIDE
from search.engine.model.transform import Pixels, Transform
from search.engine.pictures.decode import open_image
from search.engine.pictures.folder import ImageFile, find_images

DRAWN = 8
_REAL = 16  # at most
_TRIED = 64
_MAX_PIXELS = 50_000_000


def probe_pictures(transform: Transform, *, folder: Path | None = None) -> npt.NDArray[np.uint8]:
    """Return pictures ready for the model: some drawn, always the same ones, and some of folder's, if it has any."""
    real = [] if folder is None else list(islice(_real_pictures(folder, transform), _REAL))
    return np.stack([*_drawn_pictures(transform.crop_size), *real])  # [N, side, side, 3]


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


def _real_pictures(folder: Path, transform: Transform) -> Iterator[Pixels]:
    try:
        for file in islice(find_images(folder), _TRIED):
            if isinstance(file, ImageFile):
                try:
                    image = open_image(
                        folder / file.path,
                        name=file.path,
                        max_pixels=_MAX_PIXELS,
                        min_side=MIN_DECODED_SIDE,
                    )
                except ImageUnreadable:
                    continue
                yield transform.apply(image)
    except OSError:  # no such folder
        return
