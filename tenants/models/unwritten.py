"""What this process has noted of its requests and has yet to write: the searches, and the last use of each key.

No request writes it: a thread does, USAGE_SECONDS after the first note, and goes away once nothing is left. So an idle
process writes as well, and what a killed one loses is those seconds.
"""

import atexit
import logging
import threading
from collections.abc import Hashable
from typing import Any, Protocol

from django.conf import settings
from django.core.signals import request_finished
from django.db import Error, connection, transaction
from django.dispatch import receiver

from tenants.models.patience import waiting_at_most

logger = logging.getLogger(__name__)

MAX_NOTES = 10_000  # of a process whose database is away
END_SECONDS = 2.0  # so long a process that ends waits for who writes to the database


class Note(Protocol):
    """Something to write. Notes about the same subject become one before."""

    @property
    def subject(self) -> Hashable: ...

    def added_to(self, earlier: Any) -> "Note":
        """Return what is to be written in the place of this note and an earlier one about the same subject."""
        ...

    def write(self) -> None:
        """Write it, in a transaction with others; nothing, where what it is about is gone."""
        ...


class Unwritten:
    """Threads add notes, one of them writes at a time. _lock guards the notes and who is to write them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._notes: dict[Hashable, Note] = {}
        self._writer: threading.Thread | None = None

    def note(self, note: Note) -> None:
        with self._lock:
            self._merge(note)

    def forget(self) -> None:
        with self._lock:
            self._notes.clear()

    def write_soon(self) -> None:
        """Have what is there written USAGE_SECONDS from now; at once, where these are 0."""
        if not settings.USAGE_SECONDS:
            self.write()
            return
        with self._lock:
            if self._notes and not (self._writer and self._writer.is_alive()):
                self._writer = threading.Thread(target=self._write_until_empty, name="usage", daemon=True)
                self._writer.start()

    def write(self, *, patience: float = 0.0) -> None:
        """Write what is there, unless somebody else writes to the database at the moment: then it stays.

        patience: seconds to wait for them.
        """
        with self._writing:
            with self._lock:
                notes, self._notes = self._notes, {}
            if not notes:
                return
            try:
                with waiting_at_most(patience), transaction.atomic():
                    for note in notes.values():
                        note.write()
            except Error as error:
                logger.debug("%d notes of usage are written later: %s", len(notes), error)
                self._take_back(notes)

    def _take_back(self, notes: dict[Hashable, Note]) -> None:
        with self._lock:
            newer, self._notes = self._notes, notes
            for note in newer.values():
                self._merge(note)

    def _merge(self, note: Note) -> None:
        earlier = self._notes.get(note.subject)
        if earlier:
            self._notes[note.subject] = note.added_to(earlier)
        elif len(self._notes) < MAX_NOTES:
            self._notes[note.subject] = note

    def _write_until_empty(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(settings.USAGE_SECONDS)
            self.write()
            connection.close()  # this thread's own
            with self._lock:
                if not self._notes:
                    self._writer = None
                    return


unwritten = Unwritten()


def reset() -> None:
    """Forget what is unwritten, so that the process is as one that has just begun."""
    unwritten.forget()


@receiver(request_finished, dispatch_uid="tenants.write_usage")
def _write_soon(sender: object, **_: object) -> None:
    unwritten.write_soon()


@atexit.register
def _write_at_the_end() -> None:
    unwritten.write(patience=END_SECONDS)
