"""The checksums of an index's files, recorded when it is published."""

from collections.abc import Callable
from pathlib import Path

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt
from search.engine.storage.layout import EMBEDDINGS, PARTS, SUMS, resolve
from search.engine.storage.reading import read_whole
from search.engine.storage.sums import read_sums


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
