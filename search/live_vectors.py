"""Pictures put meanwhile, embedded with another model before an index of that model begins to serve."""

from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from django.db import transaction

from search.engine.errors import ImageUnreadable, PathRefused
from search.engine.model.embedder import Embedder, read_prepared
from search.engine.model.transform import Pixels
from search.engine.pictures.folder import SkippedFile
from search.folders import folder_of
from tenants.models import Company, LiveChange

_PICTURES_AT_A_TIME = 64  # whose rows, with their vectors, are in memory


def embed_missing(
    company: Company, embedder: Embedder, *, after: int, used: str | None, beat: Callable[[], None] = lambda: None
) -> list[SkippedFile]:
    """Embed the company's pictures put after that live change which lack a vector of the embedder's model.

    used: fingerprint of the model of the index that searches use: its vectors stay. Where that is the embedder's, the
    changes are counted anew, so that searches look at them again. beat is called now and then. Returns the pictures
    that cannot be read from the company's folder: an index of this model is without them.
    """
    unreadable = []
    lacking = company.live_changes.missing_from(after).lacking(embedder.passport.fingerprint)
    while changes := list(lacking[:_PICTURES_AT_A_TIME]):
        for start in range(0, len(changes), embedder.pictures_a_run):
            unreadable += _embed(company, changes[start : start + embedder.pictures_a_run], embedder, used)
            beat()
    return unreadable


def _embed(company: Company, changes: Sequence[LiveChange], embedder: Embedder, used: str | None) -> list[SkippedFile]:
    read: list[tuple[LiveChange, Pixels]] = []
    unreadable = []
    for change in changes:
        try:
            read.append((change, _prepared(company, change.path, embedder)))
        except (OSError, ImageUnreadable, PathRefused) as error:
            reason = getattr(error, "strerror", None) or str(error)
            unreadable.append(SkippedFile(change.path, f"It was added with another model and cannot be read: {reason}"))
            _write(company, change, None, embedder, used)
    if read:
        vectors = embedder.embed([pixels for _, pixels in read])
        for (change, _), vector in zip(read, vectors, strict=True):
            _write(company, change, vector.tobytes(), embedder, used)
    return unreadable


def _prepared(company: Company, path: str, embedder: Embedder) -> Pixels:
    with folder_of(company).open(path) as file:
        return read_prepared(embedder, file, name=path, max_pixels=settings.MAX_PIXELS)


def _write(company: Company, change: LiveChange, vector: bytes | None, embedder: Embedder, used: str | None) -> None:
    """Note the vector, or that there is none, unless the picture was put again or deleted meanwhile."""
    fingerprint = embedder.passport.fingerprint
    values: dict[str, Any] = {"second_vector": vector, "second_fingerprint": fingerprint}
    if change.second_vector is not None and change.second_fingerprint == used:
        values |= {"vector": change.second_vector, "fingerprint": used}
    with transaction.atomic():
        if fingerprint == used:
            values["sequence"] = company.next_live_sequence(at_least=0)
        LiveChange.objects.filter(pk=change.pk, sequence=change.sequence).update(**values)
