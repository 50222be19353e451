from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from search import runtime
from search.companies.adoption import EarlierIndexFound, ImportRefused, import_directory
from search.companies.transfer import TransferRefused, import_archive
from search.engine import storage
from search.engine.build.republish import UNKNOWN_MODEL, agreement, same_model
from search.engine.errors import EngineError
from search.engine.model.passport import ModelPassport
from search.management.operator_command import OperatorCommand
from tenants import audit


class Command(OperatorCommand):
    help = "Import an archive made by export_company, or an index directory of the Flask service."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", help="company to create; for an archive by default its own name")
        parser.add_argument("directory", type=Path, metavar="source", help="archive, or directory with an index")
        parser.add_argument(
            "--images", type=Path, help="folder of its pictures; for a directory also used to identify the model"
        )
        parser.add_argument("--move", action="store_true", help="remove the directory after the import")
        parser.add_argument("--trust", action="store_true", help="treat the index as made with the configured weights")

    def handle(
        self, *, name: str | None, directory: Path, images: Path | None, move: bool, trust: bool, **options: Any
    ) -> None:
        source = directory.absolute()
        if source.is_file():
            self._import_archive(source, name or "", images, refused=move or trust)
            return
        if not name:
            raise CommandError("Name the company to create: import_company NAME DIRECTORY")
        by = audit.on_command_line()
        try:
            passport = self._passport(source, images, trust=trust)
            imported = import_directory(source, name, image_folder=images, passport=passport, move=move, by=by)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        except EarlierIndexFound as error:
            raise CommandError(f"{error}: import under another name") from error
        except (EngineError, ImportRefused) as error:
            raise CommandError(str(error)) from error
        company = imported.company
        if imported.created:
            self.stdout.write(f"Created company {company} with the image folder {company.image_place}")
        if imported.note:
            self.stderr.write(imported.note)
        if passport is UNKNOWN_MODEL:
            self.stderr.write(
                "Searches are refused until the index is rebuilt, or imported as made with the configured weights: "
                f"manage.py import_company {company} {company.embeddings_directory} --trust"
            )
        self.stdout.write(self.style.SUCCESS(f"Imported {imported.images} pictures of {company}"))

    def _import_archive(self, path: Path, name: str, images: Path | None, *, refused: bool) -> None:
        if refused:
            raise CommandError("--move and --trust are only for directories, not for archives")
        try:
            imported = import_archive(path, name=name, image_folder=images, by=audit.on_command_line())
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        except (EngineError, TransferRefused, OSError) as error:
            raise CommandError(f"Nothing was imported. {error}") from error
        company = imported.company
        self.stdout.write(
            self.style.SUCCESS(
                f"Imported {company} with {imported.images} pictures in its index and {imported.pictures} files "
                f"of pictures; its image folder is {company.image_place}"
            )
        )

    def _passport(self, source: Path, images: Path | None, *, trust: bool) -> ModelPassport | None:
        """Return the model that made the index, if it can be identified; None: use the index as it is."""
        index = storage.load(source)
        if images is None:
            return runtime.embedder().passport if trust else index.info.passport
        embedders = [runtime.embedder(), *runtime.embedders_at_hand()]
        cosines = agreement(index, images, embedders, max_pixels=settings.MAX_PIXELS)
        for embedder, cosine in zip(embedders, cosines, strict=True):
            if same_model(cosine):
                self.stdout.write(f"The vectors match {embedder.passport} (cosine {cosine:.4f})")
                return embedder.passport
        tried = ", ".join(f"{e.passport} {c:.4f}" for e, c in zip(embedders, cosines, strict=True))
        self.stderr.write(f"The vectors match no model on this machine (cosine with {tried})")
        return embedders[0].passport if trust else UNKNOWN_MODEL
