"""Pictures as the bytes of files: of every format, damaged at will, and bombs."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from tests.support.fakes import RED


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode: str, colour: object, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)


def png(size: tuple[int, int], depth: int, colour_type: int, *, pixels: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_with(extra: bytes) -> bytes:
    data = encoded(plain("RGB", RED), "PNG")
    return data[:33] + extra + data[33:]


def bmp_rle8(size: tuple[int, int], pixels: bytes) -> bytes:
    palette = b"\0\0\0\0" + b"\0\0\xff\0" + b"\1\2\3\0" * 254
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(pixels), 0, 0, 1078) + header + palette + pixels


def tiff(*tags: tuple[int, int, int, int | bytes], tail: bytes = b"", following: int = 0) -> bytes:
    """Return a little-endian TIFF of tags (number, type, count, value or data), then tail."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = extra = b""
    for tag, kind, count, value in tags:
        if isinstance(value, bytes):
            value, extra = start + len(extra), extra + value
        entries += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + extra + tail


def grey_tiff(width: int, height: int, *tags: tuple[int, int, int, int | bytes], compression: int = 1) -> bytes:
    return tiff(
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1), *tags
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8))
SAMPLES = {
    "rgba.png": encoded(NOISE, "PNG"),
    "palette.png": encoded(NOISE.convert("RGB").quantize(16), "PNG", transparency=b"\x10\x20"),
    "plain.jpg": encoded(NOISE.convert("RGB"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"),
    "progressive.jpeg": encoded(NOISE.convert("CMYK"), "JPEG", progressive=True),
    "frames.gif": encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)], transparency=0, disposal=2),
    "plain.bmp": encoded(NOISE.convert("RGB"), "BMP"),
    "run-length.bmp": bmp_rle8((16, 16), b"\x10\1\0\0" * 16),
    "raw.tiff": encoded(NOISE, "TIFF", tiffinfo={278: 4}),
    "lzw.tif": encoded(NOISE.convert("RGB"), "TIFF", compression="tiff_lzw"),
    "jpeg.tif": encoded(NOISE.convert("RGB"), "TIFF", compression="jpeg"),
    "deflate.tif": encoded(Image.fromarray(np.eye(16, dtype=np.float32)), "TIFF", compression="tiff_deflate"),
    "frames.webp": encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(90)]),
    "plain.webp": encoded(NOISE.convert("RGB"), "WEBP"),
}


def jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(plain("RGB", RED), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def progressive_jpeg_with_scans(extra: int) -> bytes:
    data = encoded(plain("RGB", RED, (990, 990)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * extra + data[-2:]


def gif_frame(width: int, height: int) -> bytes:
    disposed = b"!\xf9\4\x08\0\0\0\0"
    return b"GIF89a\x08\0\x08\0\0\0\0" + disposed + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\0;"


def webp_canvas(width: int, height: int) -> bytes:
    data = bytearray(SAMPLES["frames.webp"])
    start = data.index(b"VP8X") + 12
    data[start : start + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def deflated_tile(side: int) -> bytes:
    tile = zlib.compress(bytes(20_000_000))
    tags = (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 122), (325, 4, 1, len(tile))
    return grey_tiff(10, 10, *tags, compression=8) + tile


BOMBS = {
    "pixels.png": png((60_000, 60_000), 8, 2, pixels=bytes(10_000_000)),
    "texts.png": png((60_000, 6), 8, 2, pixels=b"", extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))),
    "pixels.jpg": jpeg_of_size(60_000, 60_000),
    "scans.jpg": progressive_jpeg_with_scans(200),
    "pixels.gif": gif_frame(65_535, 65_535),
    "disposed.gif": gif_frame(13_000, 13_000),
    "pixels.bmp": encoded(plain("RGB", RED), "BMP").replace(
        struct.pack("<ii", 8, 8), struct.pack("<ii", 30_000, 30_000)
    ),
    "claimed.bmp": encoded(plain("RGB", RED), "BMP").replace(struct.pack("<ii", 8, 8), struct.pack("<ii", 999, 999)),
    "runs.bmp": bmp_rle8((1, 200), b"\xff\1" * 2_000_000),
    "pixels.tif": grey_tiff(60_000, 60_000, (273, 4, 1, 8), compression=8),
    "tile.tif": deflated_tile(30_000),
    "strips.tif": grey_tiff(900, 900, (273, 3, 4_000_000, bytes(8_000_000)), (278, 4, 1, 2)),
    "same-strip.tif": grey_tiff(900, 900, (273, 3, 60_000, bytes(120_000)), (278, 4, 1, 899)),
    "byte-strips.tif": grey_tiff(900, 900, (273, 1, 8_000_000, bytes(8_000_000)), (278, 4, 1, 2)),
    "bits.tif": tiff((256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 4_000_000, bytes(8_000_000)), (273, 4, 1, 8)),
    "no-rows.tif": grey_tiff(900, 900, (273, 4, 2, bytes(8)), (278, 4, 1, 0)),
    "pixels.webp": webp_canvas(2**24, 2**24),
    "canvas.webp": webp_canvas(13_000, 13_000),
    "segments.jpg": b"\xff\xd8" + b"\xff\xe0\0\2" * 600_000,
    "padding.jpg": b"\xff\xd8" + b"\xff" * 2_000_000,
    "comments.gif": b"GIF89a\x08\0\x08\0\0\0\0" + b"!\xfe\0" * 600_000,
    "blocks.gif": b"GIF89a\x08\0\x08\0\0\0\0!\xff" + b"\1\0" * 600_000,
    "chunks.png": png_with(chunk(b"zzzz", b"") * 600_000),
}
