"""TIFFs of every layout, written from numbers."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

DEFLATE = 8
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}  # by type
_FORMATS = {"u": 1, "i": 2, "f": 3}

Fields = dict[int, tuple[int, Sequence[int]]]  # by tag: type and values


def tiff_of(
    samples: np.ndarray,
    photometric: int,
    *,
    bits: int = 8,
    kind: str = "u",
    end: str = "<",
    big: bool = False,
    separate: bool = False,
    compression: int = 1,
    rows: int = 0,
    tile: int = 0,
    fill_order: int = 1,
    extra: Sequence[int] | None = None,
    fields: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Return a TIFF of samples [height, width, samples a pixel]; kind: u, i or f, as numpy has them.

    rows: in a strip, 0 for all. tile: its side, 0 for strips. fields: more of them, or others.
    """
    height, width, count = samples.shape
    own: Fields = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * count), 259: (3, [compression])}
    own |= {262: (3, [photometric]), 277: (3, [count]), 339: (3, [_FORMATS[kind]] * count)}
    own |= {266: (3, [fill_order])} if fill_order != 1 else {}
    own |= {284: (3, [2])} if separate else {}
    own |= {338: (3, extra)} if extra is not None else {}
    own |= {322: (4, [tile]), 323: (4, [tile])} if tile else {278: (4, [rows or height])}
    planes = [samples[..., [number]] for number in range(count)] if separate else [samples]
    size = (tile, tile) if tile else (rows or height, width)
    pieces = [
        _encoded(piece, bits, kind, end, compression, fill_order) for plane in planes for piece in _cut(plane, *size)
    ]
    return tiff_file({**own, **(fields or {})}, pieces, end=end, big=big, tiled=bool(tile))


def tiff_file(
    fields: Fields, pieces: Sequence[bytes], *, end: str = "<", big: bool = False, tiled: bool = False
) -> bytes:
    """Return a TIFF of fields, to which those of the strips or tiles are added."""
    word, inline = ("Q", 8) if big else ("I", 4)
    head = b"II" if end == "<" else b"MM"
    head += struct.pack(f"{end}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{end}HI", 42, 8)
    count = struct.pack(f"{end}Q" if big else f"{end}H", len(fields) + 2)
    offsets, lengths = (324, 325) if tiled else (273, 279)
    fields = fields | {offsets: (4, [0] * len(pieces)), lengths: (4, [len(piece) for piece in pieces])}
    place = start = len(head) + len(count) + len(fields) * (4 + 2 * inline) + inline
    outside = {tag: _packed(end, field) for tag, field in fields.items() if len(_packed(end, field)) > inline}
    place += sum(len(data) + len(data) % 2 for data in outside.values())
    fields[offsets] = (4, [place + sum(map(len, pieces[:number])) for number in range(len(pieces))])
    entries = extra = b""
    for tag, field in sorted(fields.items()):
        data = _packed(end, field)
        entries += struct.pack(f"{end}HH{word}", tag, field[0], len(field[1]))
        entries += struct.pack(f"{end}{word}", start + len(extra)) if tag in outside else data.ljust(inline, b"\0")
        extra += data + bytes(len(data) % 2) if tag in outside else b""
    return head + count + entries + bytes(inline) + extra + b"".join(pieces)


def _packed(end: str, field: tuple[int, Sequence[int]]) -> bytes:
    kind, values = field
    return struct.pack(f"{end}{len(values)}{_CODES[kind]}", *values)


def _cut(plane: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Return the strips, or the tiles, which are whole at the edges too, of samples [height, width, n]."""
    padding = (0, -plane.shape[0] % height if width < plane.shape[1] else 0), (0, -plane.shape[1] % width), (0, 0)
    padded = np.pad(plane, padding)
    return [
        padded[top : top + height, left : left + width]
        for top in range(0, len(padded), height)
        for left in range(0, padded.shape[1], width)
    ]


def _encoded(piece: np.ndarray, bits: int, kind: str, end: str, compression: int, fill_order: int) -> bytes:
    rows = piece.reshape(len(piece), -1)
    if bits % 8:
        ones = rows[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1) & 1
        data = np.packbits(ones.astype(np.uint8).reshape(len(rows), -1), axis=1).tobytes()
    else:
        data = rows.astype(f"{end}{kind}{bits // 8}").tobytes()
    data = zlib.compress(data) if compression == DEFLATE else data
    if fill_order == 2:
        return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    return data
