"""TIFFs of every kind and layout: read right, or refused without calling a good file damaged."""

from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.engine.errors import ImageUnreadable
from search.engine.pictures.decode import open_image
from tests.support.tiffs import DEFLATE, tiff_of

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\..*")

GREY, RGB, PALETTE, CMYK, YCBCR, LAB = 1, 2, 3, 5, 6, 8  # photometric interpretations
INVERTED = 0


def drawn() -> np.ndarray:
    """Return a picture without symmetry, int [20, 36, 3], with black and white in it."""
    y, x = np.mgrid[0:20, 0:36]
    picture = np.stack([x * 255 // 35, y * 255 // 19, (x + y) * 255 // 54], 2)
    picture[3:9, 4:15], picture[12:17, 20:31], picture[0, 0], picture[-1, -1] = (200, 30, 90), (10, 220, 40), 0, 255
    return picture


P = drawn()
G = P @ [299, 587, 114] // 1000
A = np.clip(255 - np.arange(36) * 7, 0, 255)[None].repeat(20, axis=0)  # alpha
IMAGE = Image.fromarray(P.astype(np.uint8))
FLAT_INK = np.asarray(IMAGE.convert("CMYK").convert("RGB"))
INK = np.asarray(IMAGE.convert("CMYK")).astype(int)
YCC = np.asarray(IMAGE.convert("YCbCr")).astype(int)


def grey(levels: np.ndarray = G) -> np.ndarray:
    return np.dstack([levels] * 3)


def on_white(picture: np.ndarray) -> np.ndarray:
    return picture * A[..., None] / 255 + 255 - A[..., None]


def scaled(levels: np.ndarray, bits: int) -> np.ndarray:
    return levels * (2**bits - 1) // 255


def quantized(bits: int, factor: int) -> dict[str, Any]:
    picture = IMAGE.quantize(2**bits)
    palette = np.zeros((2**bits, 3), int)
    used = np.array(picture.getpalette()).reshape(-1, 3)[: 2**bits]
    palette[: len(used)] = used
    fields = {320: (3, (palette.T.ravel() * factor).tolist())}
    samples = np.asarray(picture).astype(int)[..., None]
    return {
        "samples": samples,
        "photometric": PALETTE,
        "bits": bits,
        "fields": fields,
        "shown": np.asarray(picture.convert("RGB")),
    }


def kind_of(samples: np.ndarray, photometric: int, shown: np.ndarray, **options: Any) -> dict[str, Any]:
    samples = samples if samples.ndim == 3 else samples[..., None]
    return {"samples": samples, "photometric": photometric, "shown": shown, **options}


READ = {
    **{f"grey {b}": kind_of(scaled(G, b), GREY, grey(scaled(G, b) * 255 // (2**b - 1)), bits=b) for b in (1, 2, 4)},
    **{
        f"grey {b} inverted": kind_of(
            2**b - 1 - scaled(G, b), INVERTED, grey(scaled(G, b) * 255 // (2**b - 1)), bits=b
        )
        for b in (1, 2, 4)
    },
    **{f"grey {b}": kind_of(scaled(G, b), GREY, grey(), bits=b) for b in (8, 12, 16, 32)},
    **{f"grey {b} inverted": kind_of(2**b - 1 - scaled(G, b), INVERTED, grey(), bits=b) for b in (8, 16)},
    **{f"signed {b}": kind_of(scaled(G, b) - 2 ** (b - 1), GREY, grey(), bits=b, kind="i") for b in (8, 16, 32)},
    **{f"signed {b} positive": kind_of(scaled(G, b) >> 1, GREY, grey(), bits=b, kind="i") for b in (8, 16, 32)},
    "float": kind_of(G / 255, GREY, grey(), bits=32, kind="f"),
    "float inverted": kind_of(1 - G / 255, INVERTED, grey(), bits=32, kind="f"),
    "grey and nothing": kind_of(np.dstack([G, A]), GREY, grey(), extra=[0]),
    "grey and alpha": kind_of(np.dstack([G, A]), GREY, on_white(grey()), extra=[2]),
    "grey times alpha": kind_of(np.dstack([G * A // 255, A]), GREY, on_white(grey()), extra=[1]),
    **{f"rgb {b}": kind_of(scaled(P, b), RGB, P, bits=b) for b in (8, 16)},
    **{f"rgb {b} and nothing": kind_of(scaled(np.dstack([P, A]), b), RGB, P, bits=b, extra=[0]) for b in (8, 16)},
    **{
        f"rgb {b} and alpha": kind_of(scaled(np.dstack([P, A]), b), RGB, on_white(P), bits=b, extra=[2])
        for b in (8, 16)
    },
    **{
        f"rgb {b} times alpha": kind_of(
            scaled(np.dstack([P * A[..., None] // 255, A]), b), RGB, on_white(P), bits=b, extra=[1]
        )
        for b in (8, 16)
    },
    **{f"rgb {b} and unsaid": kind_of(scaled(np.dstack([P, A]), b), RGB, on_white(P), bits=b) for b in (8, 16)},
    "rgb, alpha and nothing": kind_of(np.dstack([P, A, 255 - A]), RGB, on_white(P), extra=[2, 0]),
    "rgb and two of nothing": kind_of(np.dstack([P, A, A]), RGB, P, extra=[0, 0]),
    **{f"cmyk {b}": kind_of(scaled(INK, b), CMYK, FLAT_INK, bits=b) for b in (8, 16)},
    "cmyk and nothing": kind_of(np.dstack([INK, A]), CMYK, FLAT_INK, extra=[0]),
    "ycbcr": kind_of(YCC, YCBCR, P, fields={530: (3, [1, 1])}),
    "lab grey": kind_of(np.dstack([scaled(G, 8), 0 * G, 0 * G]), LAB, np.asarray(
        Image.merge("LAB", [Image.fromarray(c.astype(np.uint8)) for c in (G, 0 * G + 128, 0 * G + 128)]).convert("RGB")
    )),
    **{f"palette {b}": quantized(b, 257) for b in (1, 2, 4, 8)},
    **{f"palette {b} times 256": quantized(b, 256) for b in (4, 8)},
    **{f"palette {b} up to 255": quantized(b, 1) for b in (1, 2, 4, 8)},
}  # fmt: skip
REFUSED = {
    **{f"grey {b}": kind_of(scaled(G, b), GREY, grey(), bits=b) for b in (10, 14)},
    **{f"float {b}": kind_of(G / 255, GREY, grey(), bits=b, kind="f") for b in (16, 64)},
    "grey 16 and alpha": kind_of(scaled(np.dstack([G, A]), 16), GREY, on_white(grey()), bits=16, extra=[2]),
    "signed inverted": kind_of(127 - scaled(G, 8) // 2, INVERTED, grey(), kind="i"),
    "rgb 32": kind_of(scaled(P, 32), RGB, P, bits=32),
    "rgb float": kind_of(P / 255, RGB, P, bits=32, kind="f"),
    "rgb 12": kind_of(scaled(P, 12), RGB, P, bits=12),
    "many bands": kind_of(np.dstack([P, P, P]), RGB, P, extra=[0] * 6),
    "cmyk and alpha": kind_of(np.dstack([INK, A]), CMYK, P, extra=[2]),
    "lab 16": kind_of(scaled(P, 16), LAB, P, bits=16),
    "palette 16": quantized(8, 257) | {"bits": 16},
    "ycbcr with less chroma": kind_of(YCC, YCBCR, P, fields={530: (3, [2, 2])}),
    **{f"compression {c}": kind_of(P, RGB, P, fields={259: (3, [c])}) for c in (9, 34712, 34887, 50001, 50002)},
    "jpeg xr": kind_of(P, RGB, P, fields={0xBC01: (4, [1])}),
}
LAYOUTS = [
    {"end": end, "separate": separate, "compression": compression, "fill_order": fill_order, **pieces}
    for end, separate, compression, fill_order, pieces in product(
        "<>", (False, True), (1, DEFLATE), (1, 2), ({"big": False}, {"big": True}, {"rows": 7}, {"tile": 16})
    )
]
# Pillow reads these in one order of bytes, or of bits, only; the rest in all that have one plane.
PARTLY = {"grey 12", "grey 32", "grey 16 inverted", "float", "float inverted"}
OF_16_BITS = {"rgb 16", "rgb 16 and alpha", "cmyk 16"}


def opened(kind: dict[str, Any], **layout: Any) -> np.ndarray:
    """Return the picture as it is read, int [height, width, 3]."""
    options = {name: value for name, value in kind.items() if name != "shown"}
    picture = open_image(BytesIO(tiff_of(**options, **layout)), name="x.tif", max_pixels=10_000)
    return np.asarray(picture).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_tiff_is_read_right_in_every_layout_or_said_to_be_unsupported(name: str) -> None:
    kind, read, refusals = READ[name], [], set()
    for layout in LAYOUTS:
        try:
            picture = opened(kind, **layout)
        except ImageUnreadable as error:
            refusals.add(str(error))
        else:
            assert np.abs(picture - kind["shown"]).mean() < 3, layout
            read.append(layout)
    assert {refusal for refusal in refusals if "not supported" not in refusal} == set()
    assert LAYOUTS[0] in read
    if name not in PARTLY:
        assert {(each["end"], each.get("big")) for each in read} == set(product("<>", (False, True, None)))
    if name in OF_16_BITS:
        assert sum(each["separate"] and each["compression"] == 1 for each in read) == 8


@pytest.mark.parametrize("name", REFUSED)
def test_a_good_tiff_of_an_unsupported_kind_is_not_called_damaged(name: str) -> None:
    for layout in ({}, {"end": ">"}, {"big": True}):
        with pytest.raises(ImageUnreadable, match="not supported"):
            opened(REFUSED[name], **layout)


def test_planes_that_are_cut_short_are_refused() -> None:
    data = tiff_of(scaled(P, 16), RGB, bits=16, separate=True)
    with pytest.raises(ImageUnreadable, match="incomplete"):
        open_image(BytesIO(data[:-2]), name="x.tif", max_pixels=10_000)


def test_counts_of_32_bits_keep_their_contrast() -> None:
    picture = opened(kind_of(G * 1000, GREY, grey(), bits=32))
    assert picture.max() == 255
    assert picture.min() == 0


# Orientation


@pytest.mark.parametrize("end", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize("kind", [1, 3, 4, 7])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 1), (8, 3)])
def test_a_tiff_is_turned_as_it_says_with_a_number_of_any_type(
    end: str, big: bool, compression: int, kind: int, orientation: int, turns: int
) -> None:
    stored = kind_of(np.rot90(P, turns), RGB, P, fields={274: (kind, [orientation])})
    assert (opened(stored, end=end, big=big, compression=compression) == P).all()


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_an_orientation_in_xmp_alone_does_not_count() -> None:
    assert (opened(kind_of(P, RGB, P, fields={700: (1, list(XMP))})) == P).all()
    turned = kind_of(np.rot90(P, 2), RGB, P, fields={274: (3, [3]), 700: (1, list(XMP))})
    assert (opened(turned) == P).all()


@pytest.mark.parametrize("orientation", [0, 1, 9, 255])
def test_an_orientation_that_is_none_does_not_count(orientation: int) -> None:
    assert (opened(kind_of(P, RGB, P, fields={274: (3, [orientation])})) == P).all()
