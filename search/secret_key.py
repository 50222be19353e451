"""Whether a server that starts has the SECRET_KEY of the other machines. No system check: it asks the database."""

import logging

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError

from search import health
from tenants.models import SecretKeyDigest
from tenants.models.patience import waiting_at_most

logger = logging.getLogger(__name__)

_NOTING_SECONDS = 1.0  # so long it waits for who writes to the database


def require_common_secret_key() -> None:
    """Raise ImproperlyConfigured on a machine that could not read what the others sign, nor they what it signs.

    The first server on a database notes its key there. Where the database is away, locked or not migrated, the server
    starts all the same, and the log says that nothing was compared.
    """
    if not health.database_answers():
        return
    try:
        with waiting_at_most(_NOTING_SECONDS):
            agrees = SecretKeyDigest.objects.agrees(note=not settings.READ_ONLY)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("SECRET_KEY is not compared with that of the other machines: %s", error)
        return
    if not agrees:
        raise ImproperlyConfigured(SecretKeyDigest.OTHER_KEY)
