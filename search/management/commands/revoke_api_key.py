from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants import audit
from tenants.models import ApiKey


class Command(BaseCommand):
    help = "Have an API key refused from now on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", help="what stands before the dot of the key; api_keys lists them")

    def handle(self, *, prefix: str, **options: Any) -> None:
        key = ApiKey.objects.select_related("company").filter(prefix=prefix).first()
        if key is None:
            raise CommandError(f"No key with the prefix {prefix}: manage.py api_keys lists them")
        if not key.revoke(by=audit.on_command_line()):
            raise CommandError(f"The key {key} of {key.company} was revoked before, {key.revoked:%Y-%m-%d %H:%M} UTC")
        self.stdout.write(f"The key {key} of {key.company} is revoked")
