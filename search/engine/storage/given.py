"""One of the ids that another program gave, without reading all of them."""

import json
from pathlib import Path
from typing import IO

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.index.records import require_text
from search.engine.storage.layout import GIVEN_IDS, resolve
from search.engine.storage.sums import is_small, require_recorded

_BLOCK = 1 << 20
_LONGEST = 1 << 12  # bytes that an id takes in the file at most


def given_id(directory: Path, path: str) -> str | None:
    """Return the id that another program gave to the picture of path, which may be missing now; None where none did.

    The published index's given_ids.json tells: it holds those of the generations before it as well. It is searched as
    text, because of a large index it has a hundred megabytes, which are parsed in seconds and searched in a fraction.
    Raises IndexCorrupt.
    """
    generation = resolve(directory)
    place = generation / GIVEN_IDS
    with DamageNamed(place):
        if not place.exists():
            return None
        if is_small(place):
            require_recorded(generation, [GIVEN_IDS])
        with durable.open_plain(place) as file:
            return _value(file, json.dumps(path).encode() + b": ")


def _value(file: IO[bytes], key: bytes) -> str | None:
    """Return the text that follows key in a JSON object as json.dumps writes it. Raises ValueError, and more."""
    text = b""
    while block := file.read(_BLOCK):
        text = text[-len(key) :] + block  # a key that two blocks share, and the letter before it
        start = text.find(key)
        while start >= 0 and text[start - 1 : start] not in (b"{", b" "):  # within a path, behind a backslash
            start = text.find(key, start + 1)
        if start >= 0:
            value = text[start + len(key) :] + file.read(_LONGEST)
            return require_text(json.JSONDecoder().raw_decode(value.decode("ascii"))[0])
    if not text.endswith(b"}"):
        raise ValueError("it ends in the middle")
    return None
