from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from search import runtime
from search.engine.errors import EngineError
from search.engine.model import downloads
from search.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Download the model's weights ahead of time and check them, or say where they belong."
    only_reads = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "name", nargs="?", default=settings.WEIGHTS, help="which ones (default: those of IMAGESEARCH_WEIGHTS)"
        )

    def handle(self, *, name: str, **options: Any) -> None:
        try:
            weights = runtime.fetch_weights(name)
        except EngineError as error:
            raise CommandError(str(error)) from error
        if not downloads.is_whole(weights):
            raise CommandError(
                f"{weights.path} is damaged, or another file: its SHA-256 is not the one that its name tells. "
                "Remove it and run the command again, or put the right file in its place"
            )
        self.stdout.write(f"The weights {weights.passport} are at {weights.path}, as they should be")
