from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from search.checks import SETTINGS
from tenants.read_only import ReadOnly


class OperatorCommand(BaseCommand):
    """A command that stops over a wrong setting, and on a read-only machine unless it changes nothing.

    What only a change of code could break, such as URLs, is for `check`, `migrate` and the server to find: a second
    for importing every page.
    """

    requires_system_checks = [SETTINGS]
    only_reads = False

    def execute(self, *args: Any, **options: Any) -> str | None:
        if settings.READ_ONLY and not self.changes_nothing(options):
            raise CommandError(str(ReadOnly()))
        return super().execute(*args, **options)

    def changes_nothing(self, options: dict[str, Any]) -> bool:
        """Tell whether with these options only the machine's own cache is written to."""
        return self.only_reads
