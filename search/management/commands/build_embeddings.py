import os
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from search import runtime
from search.builds import next_embedder, next_files, run_build
from search.companies.adoption import EarlierIndex, EarlierIndexFound, get_or_create_company, has_earlier_index
from search.engine.build.builder import BuildOptions, BuildOutcome, build_index, estimate_build
from search.engine.errors import EngineError, shown
from search.engine.pictures.folders import PictureFolder
from search.engine.storage.layout import generations_of_all
from search.folders import folder_of
from search.management.companies import unknown
from search.management.operator_command import OperatorCommand
from search.management.progress import ProgressDisplay
from search.monitoring.durations import format_seconds
from search.stopping import StopRequested
from tenants import audit
from tenants.models import NAME_PATTERN, BuildRunning, Company, JobStopped

_WISHES = ("full", "checksum", "allow_empty")


class Command(OperatorCommand):
    help = "Build a company's index from a folder of pictures."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--company", help="company to build the index for; created if it does not exist but its folder does"
        )
        parser.add_argument(
            "--create", action="store_true", help="create a company and an empty folder for its pictures"
        )
        parser.add_argument("--input_dir", type=Path, help="folder of pictures, instead of the company's own")
        parser.add_argument(
            "--output_dir", type=Path, help="directory to write the index to, instead of the company's own"
        )
        parser.add_argument(
            "--earlier-index",
            type=EarlierIndex,
            choices=list(EarlierIndex),
            help="for a new company whose index directory already contains an index: use it, or remove it",
        )
        parser.add_argument(
            "--batch_size", type=_at_least_one, default=32, help="pictures per model run, at most (default 32)"
        )
        parser.add_argument(
            "--workers",
            type=_at_least_one,
            default=os.cpu_count() or 1,
            help="threads that decode and embed pictures (default: one per CPU core)",
        )
        parser.add_argument("--full", action="store_true", help="process all pictures, not only changed ones")
        parser.add_argument("--checksum", action="store_true", help="compare contents, not only sizes and times")
        parser.add_argument("--allow-empty", action="store_true", help="allow an empty folder to empty the index")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--enqueue", action="store_true", help="queue the build for the worker")
        what.add_argument("--dry-run", action="store_true", help="show what would be done and how long it would take")

    def changes_nothing(self, options: dict[str, Any]) -> bool:
        return bool(options["dry_run"])

    def handle(self, *, company: str | None, input_dir: Path | None, output_dir: Path | None, **options: Any) -> None:
        if not company and not (input_dir and output_dir):
            raise CommandError("Give --company, or both --input_dir and --output_dir")
        if options["enqueue"] and (output_dir or input_dir):
            raise CommandError("--enqueue builds from the company's own folder: omit --input_dir and --output_dir")
        if output_dir and _is_published(output_dir):
            raise CommandError(f"{output_dir} holds a published index, which never changes: choose another directory")
        if output_dir and (owner := _owner(output_dir)):
            if company not in (None, owner.name):
                raise CommandError(f"{output_dir} is the index directory of company {owner}: use --company {owner}")
            company, output_dir = owner.name, None
        earlier_index = options["earlier_index"]
        if company and not (input_dir and output_dir) and _nothing_is_there(company, input_dir):
            if input_dir or not options["create"]:
                raise CommandError(_how_to_create(company, input_dir))
            self._create(company)
            return
        try:
            if options["dry_run"]:
                self._estimate(company or "", input_dir, output_dir, _options(options))
            elif options["enqueue"]:
                self._enqueue(self._company(company or "", None, earlier_index), options)
            elif output_dir:
                folder = input_dir or folder_of(self._company(company or "", None, earlier_index))
                self._tell(self._build_directory(folder, output_dir, company or "", _options(options)))
            else:
                found = self._company(company or "", input_dir, earlier_index)
                self._tell(self._build_company(found, input_dir, _options(options)))
        except EarlierIndexFound as error:
            raise CommandError(f"{error}: give --earlier-index use, or --earlier-index remove") from error
        except (EngineError, BuildRunning, JobStopped, ValidationError) as error:
            raise CommandError("; ".join(getattr(error, "messages", [str(error)]))) from error
        except (StopRequested, KeyboardInterrupt) as error:
            text = str(error) or "The build was stopped; the work done so far is kept"
            raise CommandError(f"{text}. Run the command again to continue.", returncode=130) from error

    def _create(self, name: str) -> None:
        company = self._company(name, None, None)
        folder_of(company).create()
        self.stdout.write("Put its pictures there and run the command again")

    def _company(self, name: str, input_dir: Path | None, earlier_index: EarlierIndex | None) -> Company:
        company, created, note = get_or_create_company(
            name, image_folder=input_dir, earlier_index=earlier_index, by=audit.on_command_line()
        )
        if created:
            self.stdout.write(f"Created company {name} with the image folder {company.image_place}")
            if not company.active:
                self.stdout.write(
                    f"{name} is inactive: its earlier index was inactive or does not say. Activate it in the admin"
                )
        if note:
            self.stderr.write(note)
        return company

    def _build_company(self, company: Company, folder: Path | None, options: BuildOptions) -> BuildOutcome:
        wishes = {name: getattr(options, name) for name in _WISHES}
        image_folder = str(folder.absolute()) if folder else ""
        build = company.claim_build(**wishes, image_folder=image_folder, by=audit.on_command_line())
        options = replace(options, **{name: getattr(build, name) for name in _WISHES})
        with ProgressDisplay(self.stderr) as display:
            return run_build(build, options=options, on_progress=display.show, requeue=False)

    def _build_directory(
        self, folder: Path | PictureFolder, target: Path, company: str, options: BuildOptions
    ) -> BuildOutcome:
        with ProgressDisplay(self.stderr) as display:
            return build_index(
                folder,
                target.absolute(),
                embedder=runtime.embedder(),
                options=options,
                company=company,
                report=display.show,
            )

    def _enqueue(self, company: Company, options: dict[str, Any]) -> None:
        wishes = {name: options[name] for name in _WISHES}
        build = company.queue_build(**wishes, by=audit.on_command_line())
        following = f"; another build follows it: {build.follow_up_description}" if build.follow_up else ""
        self.stdout.write(f"Build {build.pk} of {company} is {build.status}{following}: see manage.py builds")

    def _estimate(self, name: str, input_dir: Path | None, output_dir: Path | None, options: BuildOptions) -> None:
        company = Company.objects.filter(name=name).first() or Company(name=name)
        folder = input_dir or folder_of(company)
        target = output_dir.absolute() if output_dir else company.embeddings_directory
        embedder = runtime.embedder() if output_dir else next_embedder(company)
        before = None if output_dir else next_files(company, embedder)
        estimate = estimate_build(folder, target, embedder=embedder, options=options, before=before)
        plan = estimate.plan
        self.stdout.write(
            f"{plan.found} pictures found: {estimate.to_embed} to process, {plan.kept} unchanged, "
            f"{plan.removed} removed, {len(plan.skipped)} to skip"
        )
        if estimate.full_reason:
            self.stdout.write(f"{estimate.full_reason}: all pictures will be processed")
        if estimate.seconds is not None:
            self.stdout.write(f"Estimated time: {format_seconds(estimate.seconds)}")

    def _tell(self, outcome: BuildOutcome) -> None:
        for file in outcome.skipped_files:
            self.stdout.write(f"skipped {shown(file.path)}: {file.reason}")
        if outcome.full_reason:
            self.stdout.write(f"{outcome.full_reason}: all pictures were processed")
        progress = outcome.progress
        self.stdout.write(
            self.style.SUCCESS(
                f"Indexed {outcome.total_images} of {progress.found} pictures: {progress.embedded} processed, "
                f"{progress.reused} unchanged, {progress.removed} removed, {progress.skipped} skipped"
                + ("" if outcome.published else "; no changes")
            )
        )


def _nothing_is_there(name: str, input_dir: Path | None) -> bool:
    """Return whether the name may be mistyped: no company has it, and no folder of pictures and no index."""
    if not NAME_PATTERN.fullmatch(name) or Company.objects.filter(name=name).exists() or has_earlier_index(name):
        return False
    return not (input_dir or Company(name=name).image_directory).is_dir()


def _how_to_create(name: str, input_dir: Path | None) -> str:
    if input_dir:
        return f"{unknown(name)} The folder {input_dir} does not exist either"
    folder = Company(name=name).image_directory
    return f"{unknown(name)} To create it, put its pictures into {folder}, or use --create"


def _is_published(output_dir: Path) -> bool:
    """Return whether the directory is, or lies in, one that a company's link leads to."""
    return output_dir.absolute().parent.resolve().is_relative_to(generations_of_all(settings.INDEX_DIR).resolve())


def _owner(output_dir: Path) -> Company | None:
    """Return the company whose own directory this is: its row tells which index serves, not the directory."""
    directory = output_dir.absolute()
    if not directory.parent.exists() or not directory.parent.samefile(settings.INDEX_DIR):
        return None
    return Company.objects.filter(name=directory.name).first()


def _options(options: dict[str, Any]) -> BuildOptions:
    return BuildOptions(
        max_pixels=settings.MAX_PIXELS,
        keep_generations=settings.KEEP_GENERATIONS,
        embeddings_npy=settings.WRITE_EMBEDDINGS_NPY,
        **{name: options[name] for name in ("batch_size", "workers", "full", "checksum", "allow_empty")},
    )


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
