"""What a machine with IMAGESEARCH_READ_ONLY says, in the API, in the admin and in commands alike."""

from django.conf import settings


class ReadOnly(Exception):
    """Something would be changed on a machine that changes nothing."""

    def __init__(self) -> None:
        super().__init__(where_to_write())


def where_to_write() -> str:
    """Return in a sentence that this machine is read-only, and where changes go."""
    where = f"at {settings.WRITE_URL}" if settings.WRITE_URL else "on another one"
    return f"This machine is read-only: changes are made {where}"
