"""The list of an index's checksums, and single files compared with it."""

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt
from search.engine.storage import parts
from search.engine.storage.layout import EMBEDDINGS, HASHES, INFO, PARTS, SIGNATURES, SUMS

SEARCHED = PARTS - {SUMS, EMBEDDINGS, SIGNATURES, HASHES}  # what searches read; builds compare everything

_SMALL_BYTES = 4 << 20  # are compared in 3 ms, whenever an index is loaded
# Releases that do not know a file refuse a list that names it: its checksum stands in index_info.json.
_IN_INFO = {HASHES: "perceptual_hashes_sha256"}
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)\n")


def read_sums(generation: Path) -> dict[str, str] | None:
    """Return the checksums by file, None where none were recorded. Raises IndexCorrupt."""
    path = generation / SUMS
    if not path.exists() and not _has_format(generation, 2):
        return None
    content = parts.read_card(path)
    with DamageNamed(path):
        sums = parse_sums(content)
    card = _card(generation)
    return {name: str(card[key]) for name, key in _IN_INFO.items() if key in card} | sums


def parse_sums(content: bytes) -> dict[str, str]:
    """Return what SHA256SUMS says. Raises ValueError."""
    lines = content.decode("ascii").splitlines(keepends=True)
    sums = {match[2]: match[1] for line in lines if (match := _SUM_LINE.fullmatch(line))}
    if len(sums) != len(lines) or not sums.keys() <= PARTS:
        raise ValueError("it is not a list of checksums")
    return sums


def sums_content(sums: dict[str, str]) -> bytes:
    """Return what SHA256SUMS is to say."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def write_sums(generation: Path, sums: dict[str, str]) -> None:
    durable.write(generation / SUMS, sums_content({name: sums[name] for name in sums.keys() - _IN_INFO}))


def sums_in_info(generation: Path, *, beat: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Return what index_info.json is to say of the files that SHA256SUMS does not list."""
    there = {name: key for name, key in _IN_INFO.items() if (generation / name).exists()}
    return {key: durable.sha256(generation / name, beat=beat).hex() for name, key in there.items()}


def _has_format(generation: Path, number: int) -> bool:
    """Return whether index_info.json names this format or a later one."""
    found = _card(generation).get("format")
    return isinstance(found, int) and found >= number


def _card(generation: Path) -> dict[str, Any]:
    """Return what index_info.json says, nothing where it cannot be read: what is wrong with it others tell."""
    with contextlib.suppress(IndexCorrupt), DamageNamed(generation / INFO):
        return parts.parse_object(parts.read_card(generation / INFO))
    return {}


def is_small(file: Path) -> bool:
    return file.stat().st_size <= _SMALL_BYTES


def small_files(generation: Path) -> list[str]:
    """Return which of the files that searches read are compared whenever the index is loaded."""
    return [name for name in sorted(SEARCHED) if (generation / name).exists() and is_small(generation / name)]


def large_files(generation: Path) -> list[str]:
    """Return the others, where checksums were recorded. Raises IndexCorrupt."""
    with DamageNamed(generation):
        if read_sums(generation) is None:
            return []
        return [name for name in sorted(SEARCHED) if (generation / name).exists() and not is_small(generation / name)]


def require_recorded(generation: Path, names: Iterable[str], *, beat: Callable[[], None] = lambda: None) -> None:
    """Raise IndexCorrupt, naming the file, unless these are as published, by the checksums recorded then, if any."""
    sums = read_sums(generation)
    if sums is None:
        return
    for name in names:
        if name not in sums:
            raise IndexCorrupt(f"{name} is not in {SUMS}")
        with DamageNamed(generation / name), durable.open_plain(generation / name) as file:
            if durable.sha256(file, beat=beat).hex() != sums[name]:
                raise IndexCorrupt(f"{name} has changed since it was published")
