from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import Error, connection

from search import prefetch
from search.engine.errors import EngineError
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from search.stopping import stop_on_signal
from tenants.models import Company


class Command(OperatorCommand):
    help = "Fetch indexes from the object store to this machine before anybody searches them."
    only_reads = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "companies", nargs="*", metavar="company", help="companies; none: those marked for it in the admin"
        )
        parser.add_argument(
            "--follow", action="store_true", help="stay, and fetch new indexes as soon as they are published"
        )

    def handle(self, *, companies: list[str], follow: bool, **options: Any) -> None:
        if not settings.STORE:
            raise CommandError("IMAGESEARCH_STORE is not set: all indexes lie on this machine")
        for name in companies:
            find_company(name)
        failed = self._fetch(companies)
        if follow:
            self._follow(companies)
        elif failed:
            raise CommandError(f"Not fetched: {', '.join(failed)}")

    def _follow(self, companies: list[str]) -> None:
        with stop_on_signal() as stop:
            while not stop.wait(prefetch.ROUND_SECONDS):
                try:
                    self._fetch(companies)
                except Error as error:  # locked or away
                    self.stderr.write(str(error))
                    connection.close()

    def _fetch(self, names: list[str]) -> list[str]:
        """Fetch what is not here, and return the companies of which that failed."""
        chosen = Company.objects.filter(name__in=names) if names else Company.objects.active().filter(prefetch=True)
        failed = []
        for company in prefetch.lacking(chosen):
            try:
                prefetch.fetch(company)
                self.stdout.write(f"{company}: fetched {company.generation}")
            except EngineError as error:
                self.stderr.write(f"{company}: {error}")
                failed.append(company.name)
        return failed
