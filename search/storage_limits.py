"""How many pictures, and how many bytes of them, the API may store for a company.

What lies in the folder is counted once, in the company's row, and counted on with every picture that is put or deleted.
Builds, uploads and another folder make it unknown again, because others may have written there. All is done only for
companies with a limit.
"""

from search.engine.pictures.folder import ImageFile
from search.folders import folder_of
from tenants.models import Company

_COLUMNS = ["max_pictures", "max_bytes", "stored_pictures", "stored_bytes", "live_sequence"]


class LimitReached(Exception):
    """The company may store no more; the message says what it may."""


class PictureLimitReached(LimitReached):
    """As many pictures as it may have are there."""


class SpaceLimitReached(LimitReached):
    """Its pictures take as many bytes as they may."""


def require_room(company: Company, *, pictures: int, size: int) -> None:
    """Raise LimitReached unless so many pictures more, of so many bytes together, may be stored.

    The company may change until they are: count_stored() tells for certain.
    """
    if company.limits_storage:
        _count_if_unknown(company)
        _check(company, pictures=pictures, size=size)


def count_stored(company: Company, *, pictures: int, size: int) -> None:
    """Count what is stored in this transaction, negative where it is removed. Raises LimitReached.

    Call it after Company.next_live_sequence(), which keeps the row locked until the transaction ends.
    """
    if not company.limits_storage:
        return
    company.refresh_from_db(fields=_COLUMNS)
    if company.stored_pictures is None:
        company.stored_pictures, company.stored_bytes = _count(company)
    _check(company, pictures=pictures, size=size)
    Company.objects.filter(pk=company.pk).update(
        stored_pictures=max(0, company.stored_pictures + pictures),
        stored_bytes=max(0, (company.stored_bytes or 0) + size),
    )


def excesses(company: Company) -> list[str]:
    """Return in words what lies in the company's folder beyond its limits: people may store more than the API."""
    if not company.limits_storage:
        return []
    _count_if_unknown(company)
    stored = {
        "pictures": (company.stored_pictures or 0, company.max_pictures),
        "bytes of pictures": (company.stored_bytes or 0, company.max_bytes),
    }
    return [
        f"{company} has {number:,} {what} now, more than its limit of {most:,}: the API adds no more."
        for what, (number, most) in stored.items()
        if most is not None and number > most
    ]


def _check(company: Company, *, pictures: int, size: int) -> None:
    stored_pictures, stored_bytes = company.stored_pictures or 0, company.stored_bytes or 0
    if company.max_pictures is not None and pictures > 0 and stored_pictures + pictures > company.max_pictures:
        raise PictureLimitReached(
            f"Company '{company}' may store {company.max_pictures:,} pictures and has {stored_pictures:,}"
        )
    if company.max_bytes is not None and size > 0 and stored_bytes + size > company.max_bytes:
        raise SpaceLimitReached(
            f"Company '{company}' may store {company.max_bytes:,} bytes of pictures: {stored_bytes:,} are used, "
            f"and {size:,} more are needed"
        )


def _count_if_unknown(company: Company) -> None:
    """Count before any transaction: nobody else waits for it. What another has counted, or put, meanwhile counts."""
    company.refresh_from_db(fields=_COLUMNS)
    while company.stored_pictures is None:
        pictures, size = _count(company)
        unchanged = Company.objects.filter(pk=company.pk, live_sequence=company.live_sequence, stored_pictures=None)
        unchanged.update(stored_pictures=pictures, stored_bytes=size)
        company.refresh_from_db(fields=_COLUMNS)


def _count(company: Company) -> tuple[int, int]:
    """Return how many pictures lie in the company's folder, and their bytes."""
    count = size = 0
    try:
        for file in folder_of(company).find():
            if isinstance(file, ImageFile):
                count, size = count + 1, size + file.size
    except FileNotFoundError:
        return 0, 0
    return count, size
