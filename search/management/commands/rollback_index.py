from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from search.companies.rollback import BuildActive, now_uses, roll_back
from search.engine.errors import EngineError
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants import audit


class Command(OperatorCommand):
    help = "Roll a company back to its previous index."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("company", help="company to roll back")
        parser.add_argument("--cancel-build", action="store_true", help="cancel a queued or running build")

    def handle(self, *, company: str, cancel_build: bool, **options: Any) -> None:
        found = find_company(company)
        try:
            index = roll_back(found, cancel_build=cancel_build, by=audit.on_command_line())
        except (BuildActive, EngineError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(now_uses(found, index)))
        self.stdout.write("The next build replaces it")
