"""Health checks: whether this process can answer searches, without running one."""

import logging
import os

from django.conf import settings
from django.db import Error, connection

from search import publication, runtime
from tenants.models import Company

logger = logging.getLogger(__name__)

OK = "ok"

_DATABASE_SECONDS = 2  # the least that PostgreSQL's client library knows


def checks() -> dict[str, str]:
    """Return the state of each part that searches need: "ok", or what is wrong, without anything confidential.

    The embeddings are only read: searches go on where a full or read-only disk stops the builds.
    """
    return {"database": _database(), "embeddings": _embeddings(), "model": _model()}


def database_answers() -> bool:
    """Tell within seconds whether the database answers and holds our tables.

    It is asked on a connection of its own, since those of the requests wait much longer for a database that is away.
    """
    probe = connection.copy()
    timeout = "timeout" if probe.vendor == "sqlite" else "connect_timeout"
    probe.settings_dict["OPTIONS"][timeout] = _DATABASE_SECONDS
    try:
        with probe.cursor() as cursor:
            cursor.execute("SELECT 1 FROM django_migrations")
        return True
    except Error as error:
        logger.warning("The database cannot be reached: %s", error)
        return False
    finally:
        probe.close()


def _database() -> str:
    return OK if database_answers() else "Not reachable, or without tables; see the server log"


def _embeddings() -> str:
    try:
        with os.scandir(settings.INDEX_DIR) as entries:
            next(entries, None)
    except OSError as error:
        if settings.STORE and isinstance(error, FileNotFoundError):  # made with the first copy
            return OK
        logger.warning("The embeddings cannot be read: %s", error)
        return f"The directory cannot be read: {error.strerror}"
    return OK


def _model() -> str:
    if runtime.has_model() or (runtime.has_builtin_model() and not _others_are_searched()):
        return OK
    return "Not loaded; if this persists, see the server log"


def _others_are_searched() -> bool:
    """Tell whether a company has an index that the built-in weights cannot search, as far as the database says."""
    try:
        return any(publication.is_listed(each) for each in Company.objects.active().exclude(name=runtime.DEMO))
    except Error:
        return True
