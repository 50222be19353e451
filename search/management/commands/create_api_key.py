from argparse import ArgumentParser
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from search.management.companies import find_company
from tenants import audit


class Command(BaseCommand):
    help = "Make an API key of a company and print it, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--company", required=True, help="the one company that the key opens")
        parser.add_argument("--name", required=True, help="who holds it, or what for")
        parser.add_argument("--write", action="store_true", help="it also changes pictures and starts builds")
        parser.add_argument(
            "--expires", metavar="2027-01-31", type=date.fromisoformat, help="the last day, UTC, on which it works"
        )

    def handle(self, *, company: str, name: str, write: bool, expires: date | None, **options: Any) -> None:
        found = find_company(company)
        ends = datetime.combine(expires + timedelta(days=1), time(), UTC) if expires else None
        if ends and ends <= timezone.now():
            raise CommandError(f"--expires {expires} is past: nobody could use the key")
        try:
            key, text = found.issue_key(name, can_write=write, expires=ends, by=audit.on_command_line())
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        self.stderr.write(f"The key {key} of {found}: keep it, because it is shown this once")
        self.stdout.write(text)
