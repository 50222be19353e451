from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from search.companies.engines import move
from search.engine.errors import EngineError
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants import audit
from tenants.models import Company


class Command(OperatorCommand):
    help = "Have a company searched by Milvus, or by this service again; it can be searched all the time."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("company")
        choices = [Company.Engine.LOCAL.value, Company.Engine.MILVUS.value]
        parser.add_argument("--engine", required=True, choices=choices, help="what searches it from now on")

    def handle(self, *, company: str, engine: str, **options: Any) -> None:
        found, chosen = find_company(company), Company.Engine(engine)
        try:
            moved = move(found, chosen, by=audit.on_command_line())
        except EngineError as error:
            raise CommandError(str(error)) from error
        before = "now" if moved else "already"
        self.stdout.write(self.style.SUCCESS(f"{found} is {before} searched by {chosen.label}"))
