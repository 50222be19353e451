from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from search.management.operator_command import OperatorCommand
from tenants import audit
from tenants.models import ApiKey


class Command(OperatorCommand):
    help = "Revoke an API key."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", help="the part of the key before the dot; api_keys lists it")

    def handle(self, *, prefix: str, **options: Any) -> None:
        key = ApiKey.objects.select_related("company").filter(prefix=prefix).first()
        if key is None:
            raise CommandError(f"No API key has the prefix {prefix}: manage.py api_keys lists them")
        if not key.revoke(by=audit.on_command_line()):
            raise CommandError(f"API key {key} of {key.company} was already revoked, {key.revoked:%Y-%m-%d %H:%M} UTC")
        self.stdout.write(f"API key {key} of {key.company} was revoked")
