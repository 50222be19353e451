"""What an index on disk says, read whole while others are published."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

import faiss
import numpy as np

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt, IndexNotBuilt, IndexUnusable
from search.engine.index.coarse import CoarseIndex, CoarseSearch, read_coarse
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.match_fit import MatchFit
from search.engine.index.neighbours import MAX_FOLDERS, Neighbours
from search.engine.index.records import (
    ID_KEY,
    ImageRecord,
    LineRecords,
    ListRecords,
    ids_no_path_gives,
    parse_entry,
    require_text,
)
from search.engine.index.thresholds import Thresholds
from search.engine.index.vector_file import SmallVectorFile, StoredVectors, VectorFile
from search.engine.storage import parts
from search.engine.storage.layout import (
    CODES,
    FAISS_INDEX,
    FLAT_HEADER,
    FLAT_IP,
    GIVEN_IDS,
    HASH,
    HASHES,
    ID_KEYS,
    INFO,
    METADATA,
    METADATA_END,
    OFFSETS,
    PARTS,
    SIGNATURE,
    SIGNATURES,
    complete_generations,
    resolve,
)
from search.engine.storage.sums import require_recorded, small_files
from search.engine.vectors import DIMENSION

logger = logging.getLogger(__name__)

_OFFSET = np.dtype(np.int64)
_FEW_VECTORS = (64 << 20) // (4 * DIMENSION)
_LARGEST = 2**62  # well within what a database holds
_TEXT_BYTES = 1000
_WHOLE_NUMBERS = ("total_images", "embedding_dimension", "live_sequence", "scanned_at_ns")
_TEXTS = ("model", "timestamp", "weights", "fingerprint", "preparation")

T = TypeVar("T")


def has_index(directory: Path) -> bool:
    """Return whether directory holds the two files that every index has, or hides from this user whether it does."""
    return version(directory) != ""


def version(directory: Path) -> str:
    """Return a text that changes whenever another index is published into directory; "" where there is none."""
    return read_whole(directory, _stamp)


def info(directory: Path) -> IndexInfo:
    """Return what the index in directory says of itself. Raises IndexNotBuilt and IndexCorrupt."""
    return read_whole(directory, lambda generation: read_info(generation)[0])


def is_ours(directory: Path) -> bool:
    """Return whether the index in directory was made by this project, not by the Flask service."""
    return read_whole(directory, lambda generation: read_info(generation)[1])


def load(directory: Path) -> ImageIndex:
    """Return the published index, whose files are read further as searches need it.

    Raises IndexNotBuilt where there is none, and IndexCorrupt, naming the file, where the files
    cannot be read, disagree in number or dimension, or, the small ones, with their checksums; see Verifier.
    """
    return read_whole(directory, _load_generation)


def given_ids(directory: Path, company: str, files: Path | None = None) -> dict[str, str]:
    """Return, by path, the ids that the index's pictures have and that image_id(company, path) does not give.

    files: where the files of the index lie, by default those that directory leads to.

    Another program gave them. They are read from whatever is whole, also of a damaged index and of earlier
    generations, because a picture keeps its id for ever.
    """
    given: dict[str, str] = {}
    for generation in [*complete_generations(directory), resolve(files or directory)]:
        with contextlib.suppress(IndexCorrupt):
            given |= _given_ids(generation, company)
    return given


def _given_ids(generation: Path, company: str) -> dict[str, str]:
    path, given = generation / GIVEN_IDS, dict[str, str]()
    with contextlib.suppress(IndexCorrupt), DamageNamed(path):
        if path.exists():
            given = {path: require_text(each) for path, each in parts.parse_object(parts.read(path)).items()}
            require_recorded(generation, [GIVEN_IDS])
            return given
    with contextlib.suppress(IndexCorrupt):
        given |= ids_no_path_gives(company, _parse_entries(generation / METADATA))
    return given


@contextlib.contextmanager
def open_files(directory: Path) -> Iterator[list[tuple[str, IO[bytes]]]]:
    """Yield the names and the open files of the published index, in order of their names; they stay whole if another
    is published meanwhile. Raises IndexNotBuilt and IndexCorrupt.
    """
    with contextlib.ExitStack() as stack:

        def open_all(generation: Path) -> list[tuple[str, IO[bytes]]]:
            read_info(generation)
            names = sorted(name for name in PARTS if (generation / name).exists())
            try:
                return [(name, stack.enter_context((generation / name).open("rb"))) for name in names]
            except OSError as error:
                raise IndexCorrupt(f"A file of {directory.name}'s index cannot be opened: {error.strerror}") from error

        yield read_whole(directory, open_all)


def read_whole(directory: Path, read: Callable[[Path], T]) -> T:
    """Return what read makes of the published files, read again where others were published meanwhile.

    A generation of ours never changes, but it may be dropped while it is read, and a plain directory is moved away
    by the first publication.
    """
    while True:
        with DamageNamed(directory):
            generation = resolve(directory)
        stamp = _stamp(generation)
        try:
            with DamageNamed(generation):
                found = read(generation)
        except IndexUnusable:
            if (resolve(directory), _stamp(generation)) == (generation, stamp):
                raise
        else:
            if (resolve(directory), _stamp(generation)) == (generation, stamp):
                return found


def _stamp(generation: Path) -> str:
    try:
        stats = [(generation / name).stat() for name in (FAISS_INDEX, METADATA)]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"{generation.name} {error.strerror}"
    return f"{generation.name} " + " ".join(f"{s.st_ino}-{s.st_mtime_ns}-{s.st_size}" for s in stats)


def _load_generation(generation: Path) -> ImageIndex:
    index_info, ours = read_info(generation)
    count = index_info.total_images
    records = _line_records(generation) if ours else ListRecords(_parse_entries(generation / METADATA))
    if len(records) != count:
        raise IndexCorrupt(f"{METADATA} has {len(records)} entries, {FAISS_INDEX} {count} vectors")
    codes = _read_codes(generation, index_info)
    index = ImageIndex(
        index_info,
        records,
        _open_vectors(generation, count),
        read_signatures=_read_later(generation / SIGNATURES, SIGNATURE, count),
        read_hashes=_read_later(generation / HASHES, HASH, count),
        coarse=codes,
    )
    # Last, because who reads a file says better what is wrong with it. Codes that cannot be read are done without.
    require_recorded(generation, [name for name in small_files(generation) if name != CODES or codes])
    return index


def _line_records(generation: Path) -> LineRecords:
    offsets = parts.read_array(generation / OFFSETS, _OFFSET)
    id_keys = parts.read_array(generation / ID_KEYS, ID_KEY)
    with DamageNamed(generation / OFFSETS):
        if not len(offsets) or offsets[0] < 0 or (np.diff(offsets) <= 0).any():
            raise ValueError("it does not ascend")
    with DamageNamed(generation / METADATA):
        records = LineRecords(generation / METADATA, offsets, id_keys)
    if offsets[-1] + len(METADATA_END) != records.file_size:
        raise IndexCorrupt(f"{METADATA} has another length than {OFFSETS} says")
    if len(id_keys) != len(records):
        raise IndexCorrupt(f"{ID_KEYS} lists {len(id_keys)} pictures, {OFFSETS} {len(records)}")
    if ((id_keys["row"] < 0) | (id_keys["row"] >= len(records))).any():
        raise IndexCorrupt(f"{ID_KEYS} leads to entries that {METADATA} does not have")
    return records


def _parse_entries(path: Path) -> list[ImageRecord]:
    with DamageNamed(path):
        return [parse_entry(entry) for entry in json.loads(parts.read(path))]


def _read_later(path: Path, kind: np.dtype, count: int) -> Callable[[], Any] | None:
    """Return what reads an array when it is first asked for, which no search does; None where there is none."""
    if not path.exists():
        return None
    if parts.array_length(path, kind) != count:
        raise IndexCorrupt(f"{path.name} does not fit the {count} vectors")
    return cache(lambda: parts.read_array(path, kind))


def _read_codes(generation: Path, index_info: IndexInfo) -> CoarseIndex | None:
    if index_info.coarse is None:
        return None
    path = generation / CODES
    try:
        with DamageNamed(path):
            return read_coarse(path, index_info.coarse, images=index_info.total_images)
    except IndexCorrupt as error:
        logger.warning("Searches of %s scan all vectors: %s", generation, error)
        return None


def read_info(generation: Path) -> tuple[IndexInfo, bool]:
    """Return the info and whether the files are ours; the Flask service may have left no info at all."""
    with DamageNamed(generation):
        missing = [name for name in (FAISS_INDEX, METADATA) if not (generation / name).exists()]
        ours = (generation / OFFSETS).exists()
        has_info = ours or (generation / INFO).exists()
    if len(missing) == 2:
        raise IndexNotBuilt(f"{generation} contains no index")
    if missing:
        raise IndexCorrupt(f"{missing[0]} is missing")
    count, dimension = _flat_shape(generation)
    if not has_info:
        return IndexInfo(count, dimension), False
    path = generation / INFO
    card = parts.read_card(path)
    with DamageNamed(path):
        entries = parts.parse_object(card)
        index_info = parse_info(entries, IndexInfo(count, dimension))
    if (count, dimension) != (index_info.total_images, index_info.embedding_dimension):
        raise IndexCorrupt(
            f"{INFO} says {index_info.total_images} vectors of {index_info.embedding_dimension} numbers, "
            f"{FAISS_INDEX} holds {count} of {dimension}"
        )
    require_recorded(generation, [INFO])
    return index_info, ours or "format" in entries


def parse_info(entries: dict[str, Any], missing: IndexInfo) -> IndexInfo:
    """Return what index_info.json says. Raises ValueError and TypeError where something else was never written there.

    missing: says what the file does not.
    """
    known = {field.name: entries[field.name] for field in fields(IndexInfo) if field.name in entries}
    known |= {name: _whole_number(known[name]) for name in _WHOLE_NUMBERS if known.get(name) is not None}
    known["libraries"] = dict(known["libraries"]) if known.get("libraries") else None
    for text in [*(known.get(name) for name in _TEXTS), *(known["libraries"] or {}).values()]:
        if text is not None and len(require_text(text).encode()) > _TEXT_BYTES:
            raise ValueError("a text is too long")
    known["coarse"] = _coarse_search(known.get("coarse"))
    known["neighbours"] = _neighbours(known.get("neighbours"))
    known["match"] = _match_fit(known.get("match"))
    known["thresholds"] = _thresholds(known.get("thresholds"))
    return replace(missing, **known)


def _whole_number(value: Any) -> int:
    if not 0 <= int(value) <= _LARGEST:
        raise ValueError(f"{value} is no number of anything")
    return int(value)


def _coarse_search(entry: Any) -> CoarseSearch | None:
    """Return None for one that another version wrote in fields of its own, too: the exact scan serves it."""
    known = {field.name: field.default is MISSING for field in fields(CoarseSearch)}
    if not isinstance(entry, dict) or not known.keys() >= entry.keys() >= {name for name in known if known[name]}:
        return None
    search = CoarseSearch(**entry)
    counts: list[int | None] = [search.lists, search.lists_probed, search.candidates_per_result, search.changes + 1]
    recalls = [search.recall_at_10]
    if search.recall_at_50 is not None:
        counts += [search.lists_probed_for_50, search.candidates_per_result_for_50]
        recalls += [search.recall_at_50]
    elif search.lists_probed_for_50 or search.candidates_per_result_for_50:
        raise ValueError("the first pass for 50 results has no recall")
    if any(type(count) is not int or not 1 <= count <= _LARGEST for count in counts):
        raise ValueError("the first pass is described in numbers that cannot be")
    if not all(0 <= recall <= 1 for recall in recalls):
        raise ValueError("the first pass finds a share that cannot be")
    return search


def _neighbours(entry: Any) -> Neighbours | None:
    """Return None for one that another version wrote in fields of its own, too."""
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(Neighbours)}:
        return None
    by_folder = {require_text(name): _hits(*counts) for name, counts in dict(entry["folders"]).items()}
    if len(by_folder) > MAX_FOLDERS:
        raise ValueError("there are too many folders")
    return Neighbours(*_hits(entry["tried"], entry["own"]), by_folder)


def _thresholds(entry: Any) -> Thresholds | None:
    """Return None for those that another version wrote in fields of its own, too."""
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(Thresholds)}:
        return None
    if not all(type(cosine) in (int, float) and 0 < cosine <= 1 for cosine in entry.values()):
        raise ValueError("a threshold is no cosine")
    return Thresholds(**entry)


def _hits(tried: Any, own: Any) -> tuple[int, int]:
    if type(tried) is not int or type(own) is not int or not 0 <= own <= tried <= _LARGEST or not tried:
        raise ValueError(f"{own} of {tried} cannot be")
    return tried, own


def _match_fit(entry: Any) -> MatchFit | None:
    """Return None for one that another version wrote in fields of its own, too."""
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(MatchFit)}:
        return None
    fit = MatchFit(**entry)
    if any(type(count) is not int for count in (fit.images, fit.pictures)):
        raise ValueError("matches are fitted on a number of pictures that is not whole")
    if not 0 <= fit.pictures <= fit.images <= _LARGEST:
        raise ValueError(f"matches fitted on {fit.pictures} of {fit.images} pictures cannot be")
    if not (math.isfinite(fit.slope) and math.isfinite(fit.offset) and fit.slope > 0):
        raise ValueError("matches that fall as scores rise cannot be")
    error, scores = fit.calibration_error, (fit.background, fit.nearest_low, fit.nearest_median, fit.altered_low)
    if not (error is None or 0 <= error <= 1) or not all(score is None or -1 <= score <= 1 for score in scores):
        raise ValueError("a score or an error of the matches cannot be")
    return fit


def _flat_shape(generation: Path) -> tuple[int, int]:
    """Return (vectors, dimension) as the header of faiss_index.bin and its length say."""
    path = generation / FAISS_INDEX
    with DamageNamed(path), durable.open_plain(path) as file:
        start = file.read(FLAT_HEADER.size)
        length = os.fstat(file.fileno()).st_size
        if not start.startswith(FLAT_IP) or len(start) < FLAT_HEADER.size:
            raise ValueError("it is not an IndexFlatIP of FAISS")
        _, dimension, count, _, _, _, metric, floats = FLAT_HEADER.unpack(start)
    if metric != faiss.METRIC_INNER_PRODUCT or dimension != DIMENSION or floats != count * dimension:
        raise IndexCorrupt(f"{path.name} is not an inner product index of {DIMENSION} numbers a vector")
    if length != FLAT_HEADER.size + 4 * floats:
        raise IndexCorrupt(f"{path.name} is {length} bytes long, its header says {FLAT_HEADER.size + 4 * floats}")
    return count, dimension


def _open_vectors(generation: Path, count: int) -> StoredVectors:
    path = generation / FAISS_INDEX
    with DamageNamed(path):
        file = VectorFile(path, start=FLAT_HEADER.size, count=count)
    return SmallVectorFile(file) if count <= _FEW_VECTORS else file
