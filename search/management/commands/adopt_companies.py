from argparse import ArgumentParser
from typing import Any

from search.companies.adoption import adopt_companies
from search.management.operator_command import OperatorCommand
from tenants import audit


class Command(OperatorCommand):
    help = "Create companies for index directories under embeddings/ that belong to none."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "names",
            nargs="*",
            metavar="company",
            help="only these; for an existing company, a directory that replaced its link becomes its index",
        )

    def handle(self, *, names: list[str], **options: Any) -> None:
        adopted = adopt_companies(names, by=audit.on_command_line())
        for company in adopted:
            self.stdout.write(f"Adopted {company}")
        self.stdout.write(f"{len(adopted)} companies adopted")
