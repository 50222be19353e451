import os
import sqlite3
from contextlib import suppress
from typing import Any


class PrivateConnection(sqlite3.Connection):
    """A connection whose file, if it has to be made, only its owner can read: it holds sessions and password hashes.

    SQLite gives the files beside it (-wal, -shm) the same rights.
    """

    def __init__(self, database: Any, *args: Any, **options: Any) -> None:
        if not str(database).startswith(("file:", ":memory:")):  # in memory
            with suppress(OSError):  # it is there, or SQLite says in its own words why it cannot be made
                os.close(os.open(database, os.O_CREAT | os.O_EXCL, 0o600))
        super().__init__(database, *args, **options)
