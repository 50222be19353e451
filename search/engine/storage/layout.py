"""An index on disk; the only module that knows the names of files and directories.

    <parent>/AOF                                     symbolic link to the published generation
    <parent>/.generations/AOF/<generation>/          never changes once it has this name
        faiss_index.bin        IndexFlatIP, as faiss.write_index lays it out
        embeddings.npy         float32 [N, 960], a copy of its vectors for other programs; missing where not wanted
        metadata.json          list in index order, one entry a line
        metadata_offsets.npy   int64 [N + 1], where each line of metadata.json begins
        signatures.npy         SIGNATURE [N], what the picture files looked like; missing where nobody knows
        perceptual_hashes.npy  uint64 [N], what the pictures look like, 0 for blank ones; missing where nobody knows
        id_keys.npy            records.ID_KEY [N], sorted: finds a row by its id
        coarse_index.bin       codes of the first pass, see coarse.py; missing where the exact scan serves
        given_ids.json         {path: id} of the ids that no path gives, those of pictures now missing as well
        index_info.json        IndexInfo, and the "format": 3, which says that the files are ours
        SHA256SUMS             of all the others, for `sha256sum --check` as well; that of perceptual_hashes.npy stands
                               in index_info.json, because releases before refuse a list with names they do not know
        .serves                of a copy of what lies in a store: which company it serves here, see copies.py
    <parent>/.generations/AOF/.writing-<hex>/        a generation that is being written
    <parent>/.generations/AOF/.fetching-<generation>/ one that is being fetched from a store, see remote.py
    <parent>/.generations/AOF/.link-<hex>            the link, about to be moved into its place
    <parent>/.generations/AOF/.lock                  held by whoever publishes
    <parent>/.generations/AOF/.fetch.lock            held by whoever fetches one, or removes what killed fetches left
    <parent>/.generations/AOF/.importing.lock        held by the import of an archive
    <parent>/.generations/AOF/.link-<hex>            what is about to become <parent>/AOF
    <parent>/.generations/AOF/.building/<owner>/     what unfinished builds have embedded, see workspace.py
    <parent>/.generations/AOF/.live_changes.json     changes that the index lacks whose company was deleted
    <parent>/.generations/AOF/.duplicates        what a search for duplicates has found, see duplicates.py
    <parent>/.generations/AOF/company.json           what protects the company, see read_company_card
    <parent>/.generations/.removed-<hex>/            an index that is being erased

Indexes of older formats are read as ever. Format 2 always has embeddings.npy, which its releases read the vectors
from; format 1 has no SHA256SUMS either.

A plain directory with the first four files (those of the Flask service, which lack the rest) is an index too; it
becomes a generation when the first one of ours is published in its place. What FAISS holds is searched: their
embeddings.npy may be missing or hold something else.
"""

import contextlib
import secrets
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

FAISS_INDEX = "faiss_index.bin"
EMBEDDINGS = "embeddings.npy"
METADATA = "metadata.json"
OFFSETS = "metadata_offsets.npy"
SIGNATURES = "signatures.npy"
HASHES = "perceptual_hashes.npy"
ID_KEYS = "id_keys.npy"
CODES = "coarse_index.bin"
GIVEN_IDS = "given_ids.json"
INFO = "index_info.json"
SUMS = "SHA256SUMS"
PARTS = frozenset(
    {FAISS_INDEX, EMBEDDINGS, METADATA, OFFSETS, SIGNATURES, HASHES, ID_KEYS, CODES, GIVEN_IDS, INFO, SUMS}
)

LOCK = ".lock"  # of a company's generations, and of each draft
FORMAT = 3

COMPANY_CARD = "company.json"
KEPT_CHANGES = ".live_changes.json"
DUPLICATES = ".duplicates"
SERVES = ".serves"

_GENERATIONS = ".generations"
_MOMENT = "%Y%m%dT%H%M%S%f"  # a generation's name begins with when it was published
_DRAFT, _FETCHING, _LINK, _REMOVED = ".writing-", ".fetching-", ".link-", ".removed-"
_BUILDING = ".building"

SIGNATURE = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,))])
HASH = np.dtype("<u8")

METADATA_START = b"[\n"
METADATA_END = b"\n]\n"

# IndexFlatIP in faiss/impl/index_write.cpp: fourcc, dimension, number of vectors, two unused numbers, trained, metric,
# then how many floats follow, then the floats.
FLAT_HEADER = struct.Struct("<4siqqq?iQ")
FLAT_IP = b"IxFI"

NOT_WORTH_KEEPING = frozenset({".gitkeep", ".DS_Store"})


def generations_of_all(parent: Path) -> Path:
    """Return where the generations of all indexes in parent lie."""
    return parent / _GENERATIONS


def home(directory: Path) -> Path:
    """Return where the generations of the index in directory lie, and all that belongs to them."""
    return generations_of_all(directory.parent) / directory.name


def generation_directory(directory: Path, name: str) -> Path:
    """Return where the files of a generation of the index in directory lie."""
    return home(directory) / name


def company_card(directory: Path) -> Path:
    return home(directory) / COMPANY_CARD


def kept_changes(directory: Path) -> Path:
    return home(directory) / KEPT_CHANGES


def duplicates_file(directory: Path) -> Path:
    return home(directory) / DUPLICATES


def complete_generations(directory: Path) -> list[Path]:
    """Return the complete generations, oldest first."""
    try:
        entries = sorted(home(directory).iterdir())
    except OSError:
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry != company_card(directory)]


def resolve(directory: Path) -> Path:
    """Return the directory that holds the files now, for who goes by what lies on the disk alone."""
    try:
        return directory.parent / directory.readlink()
    except OSError:
        pass
    with contextlib.suppress(PermissionError):  # reading tells
        if not directory.is_dir():
            # Killed between moving a plain directory away and putting the link in its place.
            for prepared in prepared_links(directory):
                return generation_directory(directory, prepared.readlink().name)
    return directory


def linked_generation(directory: Path) -> str | None:
    """Return the name of the generation that the files of directory are; None for a plain directory, or nothing."""
    found = resolve(directory)
    return found.name if found.parent == home(directory) else None


def is_published_link(directory: Path) -> bool:
    return directory.is_symlink() and directory.readlink().parts[:1] == (_GENERATIONS,)


def link_target(directory: Path, generation: str) -> Path:
    """Return what directory links to when this generation is the published one."""
    return Path(_GENERATIONS, directory.name, generation)


def generation_name(moment: datetime) -> str:
    """Return a new name for a generation published at this moment; names sort by it."""
    return f"{moment:{_MOMENT}}-{secrets.token_hex(4)}"


def publication_moment(generation: str) -> datetime:
    """Return when a generation of this name was published. Raises ValueError for a name of another kind."""
    return datetime.strptime(generation.partition("-")[0], _MOMENT).replace(tzinfo=UTC)


def new_draft(directory: Path) -> Path:
    """Return where a generation can be written."""
    return home(directory) / f"{_DRAFT}{secrets.token_hex(8)}"


def fetch_lock(directory: Path) -> Path:
    """Return the file that is locked while a generation of the index in directory is fetched from a store."""
    return home(directory) / ".fetch.lock"


def fetched_drafts(directory: Path) -> Iterator[Path]:
    return home(directory).glob(f"{_FETCHING}*")


def fetched_draft(generation: Path) -> Path:
    """Return where a copy of a generation is fetched from a store before it has its name."""
    return generation.with_name(f"{_FETCHING}{generation.name}")


def drafts(directory: Path) -> Iterator[Path]:
    return home(directory).glob(f"{_DRAFT}*")


def new_link(directory: Path) -> Path:
    """Return where a link can be made that is moved into the place of directory."""
    return home(directory) / f"{_LINK}{secrets.token_hex(8)}"


def prepared_links(directory: Path) -> list[Path]:
    """Return the links, one at most unless processes were killed, that are about to become directory."""
    return sorted(home(directory).glob(f"{_LINK}*"))


def import_lock(directory: Path) -> Path:
    """Return the file that is locked while an archive becomes the index in directory."""
    return home(directory) / ".importing.lock"


def new_grave(place: Path) -> Path:
    """Return where something can be moved to be removed; place: the directory that it lies in."""
    return place / f"{_REMOVED}{secrets.token_hex(8)}"


def graves(place: Path) -> Iterator[Path]:
    return place.glob(f"{_REMOVED}*")


def workspace(directory: Path, owner: str = "") -> Path:
    """Return where builds of the index in directory keep what they have embedded so far.

    owner: whose builds go on with each other's work; a company that was made anew is another.
    """
    return home(directory) / _BUILDING / (owner or "any")


def workspaces(directory: Path) -> list[Path]:
    """Return the workspaces of all owners."""
    return list((home(directory) / _BUILDING).glob("[!.]*"))
