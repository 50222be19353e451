from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.utils import timezone

from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants import audit
from tenants.models import SecretKeyDigest


class Command(OperatorCommand):
    help = "Create an API key for a company and print it; it will not be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--company", required=True, help="company that the key gives access to")
        parser.add_argument("--name", required=True, help="who uses the key, or what for")
        parser.add_argument("--write", action="store_true", help="also allow changing pictures and starting builds")
        parser.add_argument(
            "--expires", metavar="2027-01-31", type=_day, help="last day (UTC) on which the key is valid"
        )

    def handle(self, *, company: str, name: str, write: bool, expires: date | None, **options: Any) -> None:
        found = find_company(company)
        if not SecretKeyDigest.objects.agrees(note=False):
            raise CommandError(SecretKeyDigest.OTHER_KEY)
        ends = datetime.combine(expires + timedelta(days=1), time(), UTC) if expires else None
        if ends and ends <= timezone.now():
            raise CommandError(f"--expires {expires} is in the past")
        try:
            key, text = found.issue_key(name, can_write=write, expires=ends, by=audit.on_command_line())
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        self.stderr.write(f"API key {key} of {found}: store it now; it will not be shown again")
        self.stdout.write(text)


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a day such as 2027-01-31") from error
    if day == date.max:  # the key ends with the day after
        raise ArgumentTypeError(f"{text} is the last day of the calendar: leave --expires out for a key that stays")
    return day
