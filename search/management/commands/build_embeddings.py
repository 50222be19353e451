import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from tqdm import tqdm

from search import runtime
from search.adoption import get_or_create_company
from search.builds import DEFAULT_BATCH_SIZE, run_build
from search.engine.builder import BuildOutcome, BuildProgress, build_index
from search.engine.errors import EngineError
from tenants.models import Company, IndexBuild


class Command(BaseCommand):
    help = "Make a folder of pictures the index of a company."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--company", help="whose index it becomes; created where it does not exist yet")
        parser.add_argument("--input_dir", type=Path, help="folder of pictures instead of the company's own")
        parser.add_argument("--output_dir", type=Path, help="write the index here instead of under the company's name")
        parser.add_argument("--batch_size", type=_at_least_one, default=DEFAULT_BATCH_SIZE, help="pictures a model run")

    def handle(
        self,
        *,
        company: str | None,
        input_dir: Path | None,
        output_dir: Path | None,
        batch_size: int,
        **options: Any,
    ) -> None:
        if not company and not (input_dir and output_dir):
            raise CommandError("Give --company, or both --input_dir and --output_dir")
        with _ProgressDisplay(self.stderr) as display:
            try:
                if output_dir:
                    folder = input_dir or self._company(company or "", None).image_directory
                    outcome = _build_directory(folder, output_dir, batch_size=batch_size, display=display)
                else:
                    build = self._claim(self._company(company or "", input_dir))
                    outcome = run_build(build, folder=input_dir, batch_size=batch_size, on_progress=display.show)
            except EngineError as error:
                raise CommandError(str(error)) from error
        self._tell(outcome)

    def _company(self, name: str, input_dir: Path | None) -> Company:
        try:
            company, created, note = get_or_create_company(name, image_folder=input_dir)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        if created:
            self.stdout.write(f"Created company {name} with the image folder {company.image_directory}")
        if note:
            self.stderr.write(note)
        return company

    def _claim(self, company: Company) -> IndexBuild:
        with transaction.atomic():  # no worker sees the row before it is claimed here
            build = company.queue_build()
            if not build.start():
                raise CommandError(
                    f"A build of {company} is running already, since {build.started_at:%Y-%m-%d %H:%M} UTC"
                )
        return build

    def _tell(self, outcome: BuildOutcome) -> None:
        for file in outcome.skipped_files:
            self.stdout.write(f"skipped {file.path}: {file.reason}")
        progress = outcome.progress
        self.stdout.write(
            self.style.SUCCESS(f"Indexed {progress.embedded} of {progress.found} pictures, skipped {progress.skipped}")
        )


class _ProgressDisplay:
    """A progress bar on a terminal, a line every few seconds elsewhere."""

    _SECONDS_BETWEEN_LINES = 5

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "_ProgressDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: BuildProgress) -> None:
        if sys.stderr.isatty():
            self._show_bar(progress)
        elif time.monotonic() - self._last_line >= self._SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            rate = progress.done / (self._last_line - self._started)
            left = (progress.found - progress.done) / rate if rate else 0
            self._stream.write(f"{progress.done}/{progress.found} pictures, {rate:.1f} a second, {left:.0f} s left")

    def _show_bar(self, progress: BuildProgress) -> None:
        if self._bar is None:
            self._bar = tqdm(total=progress.found, unit=" pictures")
        self._bar.set_postfix(skipped=progress.skipped, refresh=False)
        self._bar.update(progress.done - self._bar.n)


def _build_directory(folder: Path, target: Path, *, batch_size: int, display: _ProgressDisplay) -> BuildOutcome:
    return build_index(
        folder,
        target.absolute(),
        embedder=runtime.embedder(),
        max_pixels=settings.MAX_PIXELS,
        batch_size=batch_size,
        keep_generations=settings.KEEP_GENERATIONS,
        report=display.show,
    )


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
