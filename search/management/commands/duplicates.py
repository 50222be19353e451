import csv
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError

from search import duplicates, overlay
from search.companies.duplicates import COMPARING, LOOKING, carry_out
from search.duplicates import BY_WORD, NotLookedYet
from search.engine.errors import EngineError
from search.engine.index.duplicates import Level, Progress
from search.engine.index.groups import Group
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from search.spreadsheets import harmless
from search.stopping import StopRequested
from search.templatetags.humane import readable
from tenants import audit
from tenants.models import Company, DuplicateSearch, JobStopped

_SECONDS_BETWEEN_LINES = 5


class Command(OperatorCommand):
    help = "List a company's pictures that show the same, in groups."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--company", required=True)
        parser.add_argument(
            "--level", action="append", choices=list(BY_WORD), help="only this level; may be given again; default all"
        )
        parser.add_argument("--csv", action="store_true", help="as CSV: group, level, score, path, id")
        parser.add_argument("--look", action="store_true", help="look for them first, in this process")
        parser.add_argument(
            "--quick", action="store_true", help="with --look: not for edited copies, which reads pictures"
        )

    def changes_nothing(self, options: dict[str, Any]) -> bool:
        return not options["look"]

    def handle(
        self, *, company: str, level: list[str] | None, csv: bool, look: bool, quick: bool, **options: Any
    ) -> None:
        found = find_company(company)
        try:
            if look:
                self._look(found, edited=not quick)
            chosen = [BY_WORD[word] for word in level or BY_WORD]
            groups = duplicates.groups_of(found, overlay.live_index(found), levels=chosen)
        except (EngineError, NotLookedYet) as error:
            raise CommandError(str(error)) from error
        (self._write_csv if csv else self._write)(groups)

    def _look(self, company: Company, *, edited: bool) -> None:
        search = DuplicateSearch.objects.claim(company, edited=edited, by=audit.on_command_line())
        if search is None:
            raise CommandError(f"A search for duplicates of {company} is running already")
        try:
            carry_out(search, on_progress=_Told(self.stderr).tell, requeue=False)
        except (JobStopped, StopRequested) as error:
            raise CommandError(str(error)) from error
        company.refresh_from_db()

    def _write(self, groups: list[Group]) -> None:
        for group in groups:
            self.stdout.write(readable(group.leader.path))
            for member in group.members:
                self.stdout.write(f"    {member.level.word:<6}  {member.score:.4f}  {readable(member.image.path)}")
        self.stdout.write(f"{len(groups)} group{'' if len(groups) == 1 else 's'}")

    def _write_csv(self, groups: list[Group]) -> None:
        writer = csv.writer(self.stdout)
        writer.writerow(["group", "level", "score", "path", "id"])
        for number, group in enumerate(groups, start=1):
            writer.writerows([number, *row] for row in _rows(group))


def _rows(group: Group) -> Iterator[tuple[str, float, str, str]]:
    yield Level.EXACT.word, 1.0, harmless(readable(group.leader.path)), group.leader.id
    for member in group.members:
        yield member.level.word, member.score, harmless(readable(member.image.path)), member.image.id


class _Told:
    """Tells a stream every few seconds how far a search is."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._told_at = stream, time.monotonic()

    def tell(self, progress: Progress) -> None:
        if time.monotonic() - self._told_at >= _SECONDS_BETWEEN_LINES:
            self._told_at = time.monotonic()
            stage = LOOKING if progress.looking else COMPARING
            self._stream.write(f"{stage}: {progress.done} of {progress.total}")
