"""What befalls files."""

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def flip_a_byte(path: Path, place: int) -> None:
    """Change a bit in place, as a failing disk does. place: counted from the end where it is negative."""
    with path.open("r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x20]))


def cut_by_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def replace_by_other_bytes(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else entirely " * 20)


def replace_by_pointer(path: Path) -> None:
    path.write_bytes(POINTER)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [
    cut_by_half,
    cut_one_byte,
    empty,
    remove,
    replace_by_other_bytes,
    replace_by_pointer,
    become_a_folder,
]


# Files that are crafted, or damaged at random ------------------------------------------------------------------------

ODD_VALUES = [
    b"null",
    b"true",
    b"-1",
    b"1.5",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"18446744073709551616",
    b"1" * 400,
    b"1" * 5000,
    b'""',
    b'"text"',
    b'"0001-01-01T00:00:00+14:00"',
    b'"\\ud800"',
    b'"nul \\u0000"',
    b'"' + b"long " * 1000 + b'"',
    b"[]",
    b"{}",
    b"[[1, 2]]",
    b'{"a": 1}',
    b"[" * 5000 + b"]" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
]

ODD_HEADERS = [
    b"",
    b"(" * 900,
    b"[" * 5000,
    b"{" * 50,
    b"-" * 9000 + b"1",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': ('''",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (10,), }L",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': 10}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (10L,)}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': ()}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (10, 0)}",
    b"{'descr': '<i8', 'fortran_order': True, 'shape': (0,)}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (" + b"9" * 300 + b",)}",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (10,)}",
    b"{'descr': '<i9', 'fortran_order': False, 'shape': (10,)}",
    b"{'descr': ('<i8', (" + b"9" * 20 + b",)), 'fortran_order': False, 'shape': (1,)}",
    b"{'descr': [('key', '<u8'), ('key', '<i8')], 'fortran_order': False, 'shape': (9,)}",
    b"{'descr': [" * 200,
    b"{'descr': 7, 'fortran_order': 'no', 'shape': None}",
    b"{'descr': {}, 'fortran_order': False, 'shape': (1,)}",
    b"['descr', 'fortran_order', 'shape']",
    b"\xff\xfe\x00\x00",
    b"\x00" * 80,
    b"{'a': 1}\n\tb\n  c",
]


def at_random(content: bytes, *, seed: int, count: int) -> Iterator[bytes]:
    """Yield the content so many times, each time with other damage."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged, place = bytearray(content), chance.randrange(len(content))
        match chance.randrange(5):
            case 0 | 1:
                damaged[place] ^= 1 << chance.randrange(8)
            case 2:
                del damaged[place:]
            case 3:
                damaged[place : place + 8] = chance.randbytes(8)
            case 4:
                damaged[place:place] = chance.randbytes(chance.randrange(1, 40))
        if damaged != content:
            yield bytes(damaged)


def with_odd_values(content: bytes) -> Iterator[bytes]:
    """Yield the JSON text with one of its values, or all of it, replaced by what does not belong there."""
    values = [match.span(1) for match in re.finditer(rb'(?<=[:\[,])\s*("[^"]*"|[\d.]+|\{\})(?=\s*[,}\]])', content)]
    for start, end in [(0, len(content)), *values[:4]]:
        for value in ODD_VALUES:
            yield content[:start] + value + content[end:]


def with_odd_headers(content: bytes) -> Iterator[bytes]:
    """Yield the .npy file with other headers, and its values with what array processors stumble over."""
    start = 10 + int.from_bytes(content[8:10], "little")
    for header in ODD_HEADERS:
        for version in (b"\1\0", b"\3\0"):
            length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
            yield content[:6] + version + length + header + content[start:]
    for values in (b"\xff", b"\x7f", b"\x80", b"\x00"):
        yield content[:start] + values * (len(content) - start)
    yield content[:8] + b"\xff\xff" + content[10:]
    yield content[:6] + b"\x09\x09" + content[8:]
