"""What befalls files."""

from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def flip_a_byte(path: Path, place: int) -> None:
    """Change a bit in place, as a failing disk does."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
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
