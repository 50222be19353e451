"""How a record of the log becomes a line: LOGGING in settings.py names what is here."""

import logging
import re
from logging import LogRecord

from pythonjsonlogger import json
from pythonjsonlogger.core import RESERVED_ATTRS

from search.monitoring import observation

# What callers write at the wrong place, such as a path: the end of an API key, the password of HTTP Basic.
_SECRETS = re.compile(r"(?<=[0-9a-f]{12}\.)[\w-]{43}|(?<=\bbasic )[\w+/=-]{8,}", re.ASCII | re.IGNORECASE)
# Breaks of lines, directions of writing, and what cannot be seen.
_DECEIVING = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


class JsonFormatter(json.JsonFormatter):
    """Writes a record as one line of JSON, with all that it carries."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
            timestamp=True,
            # Django attaches the request, whose text has the query string and what may be secret in it.
            reserved_attrs=[*RESERVED_ATTRS, "request"],
        )

    def format(self, record: LogRecord) -> str:
        return _without_secrets(super().format(record))


class LineFormatter(logging.Formatter):
    """Keeps a message on its line, whatever a stranger has put into it; only a traceback has lines of its own."""

    def format(self, record: LogRecord) -> str:
        return _without_secrets(super().format(record))

    def formatMessage(self, record: LogRecord) -> str:
        return _DECEIVING.sub(lambda found: found[0].encode("unicode_escape").decode(), super().formatMessage(record))


def _without_secrets(text: str) -> str:
    return _SECRETS.sub("...", text)


class AddMarks(logging.Filter):
    """Gives each record the id of the request, or the number of the build, that it was written for."""

    def filter(self, record: LogRecord) -> bool:
        record.__dict__.update(observation.marks())
        return True


class OnlyFaults(logging.Filter):
    """Leaves out what Django says of answers that are no faults: the request's own line says it."""

    def filter(self, record: LogRecord) -> bool:
        return bool(record.exc_info)
