"""What a picture looks like, in 64 bits: copies in other sizes and qualities differ in a few of them."""

import numpy as np
from PIL import Image

BLANK = 0  # the hash of a picture of one colour, which is like any other of them

_SIDE = 32  # pixels that ImageHash looks at, in both directions
_REDUCED_SIDE = 256  # at least so much is left of the shorter side by the fast reduction, which costs no bit
_SEEN = 8  # of 255: what differs so little is noise of the file


def perceptual_hash(image: Image.Image) -> int:
    """Return the perceptual hash of a picture, from 0 to 2**64 - 1: BLANK where nothing can be seen in it."""
    import imagehash  # late: with SciPy it takes 0.3 s, and most processes never need it

    factor = min(image.size) // _REDUCED_SIDE
    smaller = image.reduce(factor) if factor > 1 else image
    grey = smaller.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if np.ptp(np.asarray(grey)) <= _SEEN:
        return BLANK
    return int(str(imagehash.phash(grey)), 16) or 1
