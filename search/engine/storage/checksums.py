"""The checksums of an index's files, recorded when it is published."""

import re
from collections.abc import Callable
from pathlib import Path

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt
from search.engine.storage import parts
from search.engine.storage.layout import EMBEDDINGS, INFO, PARTS, SUMS, resolve
from search.engine.storage.reading import read_whole

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)\n")


def has_checksums(directory: Path) -> bool:
    """Return whether the checksums of the index in directory were recorded when it was published."""
    try:
        return (resolve(directory) / SUMS).exists()
    except PermissionError:
        return False


def damaged_files(directory: Path, *, copy: bool = True, beat: Callable[[], None] = lambda: None) -> list[str]:
    """Return which files are not what was published, and how, by the checksums recorded then.

    copy: embeddings.npy, which nobody here reads, is compared too. Nothing where no checksums were recorded.
    beat is called now and then.
    """
    compared = PARTS - {SUMS} if copy else PARTS - {SUMS, EMBEDDINGS}
    try:
        return read_whole(directory, lambda generation: _damaged_files(generation, compared, beat))
    except IndexCorrupt as error:
        return [str(error)]


def require_undamaged(directory: Path, *, copy: bool = True, beat: Callable[[], None] = lambda: None) -> None:
    """Raise IndexCorrupt where files are not what was published; see damaged_files."""
    if damaged := damaged_files(directory, copy=copy, beat=beat):
        raise IndexCorrupt("; ".join(damaged))


def has_copy_as_wanted(directory: Path, *, wanted: bool, beat: Callable[[], None] = lambda: None) -> bool:
    """Return whether embeddings.npy is there as it was published, or, where it is not wanted, is not there."""
    if not (resolve(directory) / EMBEDDINGS).exists():
        return not wanted
    only_copy = frozenset({EMBEDDINGS})
    return wanted and not read_whole(directory, lambda generation: _damaged_files(generation, only_copy, beat))


def _damaged_files(generation: Path, compared: frozenset[str], beat: Callable[[], None]) -> list[str]:
    try:
        sums = read_sums(generation)
    except IndexCorrupt as error:
        return [str(error)]
    if sums is None:
        return []
    present = {name for name in compared if (generation / name).exists()}
    damaged = [f"{name} is missing" for name in sorted((sums.keys() & compared) - present)]
    damaged += [f"{name} is not in {SUMS}" for name in sorted(present - sums.keys())]
    for name in sorted(present & sums.keys()):
        try:
            with DamageNamed(generation / name), durable.open_plain(generation / name) as file:
                if durable.sha256(file, beat=beat).hex() != sums[name]:
                    damaged.append(f"{name} has changed since it was published")
        except IndexCorrupt as error:
            damaged.append(str(error))
    return damaged


def read_sums(generation: Path) -> dict[str, str] | None:
    """Return the checksums by file, None where none were recorded. Raises IndexCorrupt."""
    path = generation / SUMS
    if not path.exists() and not _has_format(generation, 2):
        return None
    content = parts.read_card(path)
    with DamageNamed(path):
        lines = content.decode("ascii").splitlines(keepends=True)
        sums = {match[2]: match[1] for line in lines if (match := _SUM_LINE.fullmatch(line))}
        if len(sums) != len(lines) or not sums.keys() <= PARTS:
            raise ValueError("it is not a list of checksums")
    return sums


def write_sums(generation: Path, sums: dict[str, str]) -> None:
    durable.write(generation / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())


def _has_format(generation: Path, number: int) -> bool:
    """Return whether index_info.json names this format or a later one; what else is wrong with it others tell."""
    try:
        card = parts.read_card(generation / INFO)
        with DamageNamed(generation / INFO):
            found = parts.parse_object(card).get("format")
    except IndexCorrupt:
        return False
    return isinstance(found, int) and found >= number
