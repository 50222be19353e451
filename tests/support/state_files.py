"""Files of weights as torch.save writes them, made by hand, so that they can lie."""

import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
    name: str


class Call(NamedTuple):
    of: Any
    arguments: Any


class Reference(NamedTuple):
    to: Any


REBUILD, ORDERED_DICT = Global("torch._utils\n_rebuild_tensor_v2"), Global("collections\nOrderedDict")


def pickled(value: Any) -> bytes:
    match value:
        case Global(name):
            return b"c" + name.encode() + b"\n"
        case Call(of, arguments):
            return pickled(of) + pickled(arguments) + b"R"
        case Reference(to):
            return pickled(to) + b"Q"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)
        case str():
            return b"X" + struct.pack("<I", len(value)) + value.encode()
        case tuple():
            return b"(" + b"".join(map(pickled, value)) + b"t"
        case dict():
            return b"}(" + b"".join(pickled(part) for item in value.items() for part in item) + b"u"
    raise TypeError(value)


def tensor(
    shape: tuple[Any, ...] = (2, 3),
    strides: tuple[Any, ...] = (3, 1),
    *,
    offset: Any = 0,
    entry: Any = "0",
    length: Any = 6,
    kind: str = "torch\nFloatStorage",
) -> Call:
    storage = Reference(("storage", Global(kind), entry, "cpu", length))
    return Call(REBUILD, (storage, offset, shape, strides, False, Call(ORDERED_DICT, ())))


def write(path: Path, content: bytes | Any, *, stored: bool = True, **entries: bytes) -> Path:
    """Write a file as torch.save does, the same bytes each time. content: of the pickle, or the pickle itself."""
    pickle = content if isinstance(content, bytes) else b"\x80\x02" + pickled(content) + b"."
    numbers = np.arange(6, dtype=np.float32).tobytes()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in ({"data.pkl": pickle, "data/0": numbers} | entries).items():
            kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            file.writestr(zipfile.ZipInfo(f"weights/{name}"), data, kind)
    return path
