"""python -m imagesearch.supervise: start what supervisord.conf names, until Ctrl-C or the end of the terminal."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

from supervisor import supervisord

from imagesearch import settings

_CONFIGURATION = Path(__file__).with_name("supervisord.conf")


class _LastingErrors:
    """Standard error whose loss is no error: supervisord would end over it and leave its processes behind."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        pass


def _name_of_output() -> str:
    """Return a path by which supervisord can open standard output for each process.

    After su the terminal is still the first user's, and the journal's socket has no path at all.
    """
    for path in ["/dev/fd/1", *(["/dev/tty"] if sys.stdout.isatty() else [])]:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return path
    copier = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True)
    assert copier.stdin is not None
    os.dup2(copier.stdin.fileno(), 1)
    return "/dev/fd/1"


def main(configuration: Path = _CONFIGURATION) -> None:
    os.environ.update(OUTPUT=_name_of_output(), HAS_WORKER=str(not settings.READ_ONLY))
    sys.stderr = cast(TextIO, _LastingErrors(sys.stderr))
    as_root = ["--user", "root"] if os.geteuid() == 0 else []  # named, it is no longer warned of
    supervisord.main(["--configuration", str(configuration), *as_root])


if __name__ == "__main__":
    main()
