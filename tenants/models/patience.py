from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Wait no longer than this for a lock of the database; what waits longer raises OperationalError.

    0: SQLite does not wait at all, PostgreSQL for a millisecond. Outside the block SQLite waits as long as its
    timeout in the settings says.
    """
    milliseconds = int(1000 * seconds)
    if connection.vendor == "sqlite":
        before = 1000 * connection.settings_dict.get("OPTIONS", {}).get("timeout", 5)
        during, after = f"PRAGMA busy_timeout = {milliseconds}", f"PRAGMA busy_timeout = {int(before)}"
    else:
        during, after = f"SET lock_timeout = {max(1, milliseconds)}", "SET lock_timeout = DEFAULT"
    _carry_out(during)
    try:
        yield
    finally:
        _carry_out(after)


def _carry_out(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
