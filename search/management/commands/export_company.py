from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from search.companies.transfer import TransferRefused, export_company
from search.engine.errors import EngineError
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants import audit
from tenants.models import JobStopped


class Command(OperatorCommand):
    help = "Export a company's settings and index, without its API keys, to an archive."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("company", help="company to export")
        parser.add_argument("--to", type=Path, required=True, help="archive to write, a tar file")
        parser.add_argument("--with-images", action="store_true", help="include its pictures")
        parser.add_argument("--force", action="store_true", help="replace an existing file")

    def handle(self, *, company: str, to: Path, with_images: bool, force: bool, **options: Any) -> None:
        found = find_company(company)
        try:
            exported = export_company(
                found, to.absolute(), with_images=with_images, replace=force, by=audit.on_command_line()
            )
        except (EngineError, TransferRefused, JobStopped, OSError) as error:
            raise CommandError(f"Nothing was exported. {error}") from error
        if exported.left_out:
            self.stderr.write(f"{exported.left_out} files could not be read and were left out")
        self.stdout.write(
            self.style.SUCCESS(
                f"Exported {found} with {exported.images} pictures in its index and {exported.pictures} files of "
                f"pictures to {to}, {to.stat().st_size} bytes"
            )
        )
