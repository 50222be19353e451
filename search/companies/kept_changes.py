"""Live changes kept beside the index of a company that is deleted.

They are rows, which go with the company; the index alone would bring back pictures that were deleted one at a time, and
lack those that were put. Whoever begins with that index again gets them back.
"""

import base64
import logging
from typing import Any

from django.core.exceptions import ValidationError

from search import belongings, publication
from search.engine.errors import EngineError
from search.engine.vectors import DIMENSION
from tenants.models import NAME_PATTERN, Company, LiveChange

logger = logging.getLogger(__name__)

_VECTOR_BYTES = 4 * DIMENSION
_HASH_BYTES = 8
_BROKEN = (KeyError, TypeError, ValueError, OverflowError, ValidationError, EngineError)


def keep(company: Company) -> None:
    """Write the live changes of a company that is being deleted beside its index; where the disk refuses, log it."""
    if not NAME_PATTERN.fullmatch(company.name):
        return  # made past all forms, it may lead out of the directory of indexes
    try:
        changes = [_entry(change) for change in company.live_changes.all()]
        kept = {"generation": publication.published_generation(company), "changes": changes} if changes else None
        belongings.write_kept_changes(company, kept)
    except (EngineError, OSError):
        logger.exception("The live changes of %s could not be kept beside its index", company)


def kept_with(company: Company) -> list[LiveChange]:
    """Return the changes, not saved, that were kept beside the index that the company begins with and that it lacks."""
    try:
        kept = belongings.read_kept_changes(company)
        if kept is None or kept["generation"] != company.generation:
            return []
        changes = [_change(company, entry) for entry in kept["changes"]]
        if len({change.path for change in changes} | {change.sequence for change in changes}) < 2 * len(changes):
            raise ValueError("a path or a number comes twice")
    except _BROKEN as error:
        logger.warning("The live changes kept beside the index of %s cannot be read: %r", company, error)
        return []
    return [change for change in changes if change.sequence > company.live_floor]


def give_back(company: Company) -> bool:
    """Give a company that was just added the changes that it counts already; tell whether there are any."""
    changes = [change for change in kept_with(company) if change.sequence <= company.live_sequence]
    LiveChange.objects.bulk_create(changes, batch_size=100)
    return bool(changes)


def _entry(change: LiveChange) -> dict[str, Any]:
    return {
        "sequence": change.sequence,
        "path": change.path,
        "image_id": change.image_id,
        "vector": change.vector and base64.b64encode(change.vector).decode(),
        "fingerprint": change.fingerprint,
        "perceptual_hash": change.perceptual_hash and bytes(change.perceptual_hash).hex(),
        "second_vector": change.second_vector and base64.b64encode(change.second_vector).decode(),
        "second_fingerprint": change.second_fingerprint,
    }


def _change(company: Company, entry: dict[str, Any]) -> LiveChange:
    """Raises KeyError, TypeError, ValueError and ValidationError."""
    change = LiveChange(
        company=company,
        sequence=int(entry["sequence"]),
        path=str(entry["path"]),
        image_id=str(entry["image_id"]),
        vector=_vector(entry["vector"]),
        fingerprint=str(entry["fingerprint"]),
        perceptual_hash=_hash(entry.get("perceptual_hash")),
        second_vector=_vector(entry.get("second_vector")),
        second_fingerprint=str(entry.get("second_fingerprint", "")),
    )
    change.clean_fields(exclude=["company"])
    return change


def _hash(text: Any) -> bytes | None:
    """Return what an entry says of a perceptual hash, which releases before did not keep. Raises ValueError."""
    hashed = None if text is None else bytes.fromhex(text)
    if hashed is not None and len(hashed) != _HASH_BYTES:
        raise ValueError(f"a perceptual hash of {len(hashed)} bytes")
    return hashed


def _vector(text: Any) -> bytes | None:
    """Raises TypeError and ValueError."""
    vector = None if text is None else base64.b64decode(text, validate=True)
    if vector is not None and len(vector) != _VECTOR_BYTES:
        raise ValueError(f"a vector of {len(vector)} bytes")
    return vector
