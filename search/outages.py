"""What workers do while the database is locked or away: they wait, and nothing that they carry out is lost by it."""

import logging
import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import psycopg
from django.db import InterfaceError, OperationalError, close_old_connections

from search.stopping import StopRequested, stop_on_signal

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0

_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")
_POSTGRESQL = ("08", "25P03", "53300", "57P")  # lost, idle for too long, too many, shut down; none: nobody answered

T = TypeVar("T")
P = ParamSpec("P")


class _Outage:
    """Tells the log when the database goes away and when it is back, once each, whoever meets it and how often.

    Of this process; only its main thread tells it.
    """

    def __init__(self) -> None:
        self._told = False

    def met(self, error: BaseException) -> None:
        """Raise the error again, unless it means that the database is locked or away."""
        if not is_outage(error):
            raise error
        close_old_connections()  # the one that broke would never work again
        if not self._told:
            self._told = True
            reason = str(error).partition("\n")[0]
            logger.warning("The database is locked or away; waiting until it is back: %s", reason)

    def over(self) -> None:
        if self._told:
            logger.warning("The database is back")
            self._told = False


outage = _Outage()


def is_outage(error: BaseException) -> bool:
    """Return whether the error means that the database is locked or away, not that it refuses what it was asked."""
    match error.__cause__:
        case sqlite3.Error() as cause:
            return getattr(cause, "sqlite_errorname", "").startswith(_SQLITE)
        case psycopg.OperationalError() | psycopg.InterfaceError() as cause:
            return cause.sqlstate is None or cause.sqlstate.startswith(_POSTGRESQL)
    return False


def outlast(act: Callable[[], T]) -> T:
    """Return what act returns, which is called again until the database is neither locked nor away.

    act: may be called again wherever it raised. Raises StopRequested when the process is asked to stop meanwhile.
    """
    with stop_on_signal() as stop:
        while True:
            try:
                result = act()
            except (OperationalError, InterfaceError) as error:
                outage.met(error)
            else:
                outage.over()
                return result
            if stop.wait(_PAUSE_SECONDS):
                raise StopRequested("The database is locked or away; what there was to do is left to the next worker")


def outlasting(function: Callable[P, T]) -> Callable[P, T]:
    """Have every call of the function outlast the database's absence; it may be called again wherever it raised."""

    @wraps(function)
    def patient(*args: P.args, **options: P.kwargs) -> T:
        return outlast(lambda: function(*args, **options))

    return patient
