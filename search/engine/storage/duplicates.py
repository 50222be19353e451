"""What a search for duplicates has found, in one file beside the generations of a company."""

from pathlib import Path

from search.engine.index.duplicates import DuplicatePairs


def write_duplicates(directory: Path, pairs: DuplicatePairs) -> None:
    """Keep what was found in the index of directory, whole for every reader. Raises OSError."""
    raise NotImplementedError


def read_duplicates(directory: Path) -> DuplicatePairs | None:
    """Return what was found; None where nobody has looked. Raises IndexCorrupt, also for a crafted file."""
    raise NotImplementedError


def duplicates_stamp(directory: Path) -> str:
    """Return a text that changes whenever something else was found; "" where nobody has looked."""
    raise NotImplementedError


def drop_duplicates(directory: Path) -> None:
    """Forget what was found."""
    raise NotImplementedError
