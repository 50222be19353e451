from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from search.companies.rollback import BuildActive, roll_back
from search.engine.errors import EngineError
from search.management.companies import find_company
from tenants import audit


class Command(BaseCommand):
    help = "Let searches of a company use its previous index, from the next search on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("company", help="whose index")
        parser.add_argument("--cancel-build", action="store_true", help="cancel the build that is queued or running")

    def handle(self, *, company: str, cancel_build: bool, **options: Any) -> None:
        found = find_company(company)
        try:
            index = roll_back(found, cancel_build=cancel_build, by=audit.on_command_line())
        except (BuildActive, EngineError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            self.style.SUCCESS(
                f"Searches of {found} use the index of {index.info.timestamp or 'an unknown time'} from now on: "
                f"{index.info.total_images} pictures, weights {index.info.weights or 'not recorded'}"
            )
        )
        self.stdout.write("The next build replaces it")
