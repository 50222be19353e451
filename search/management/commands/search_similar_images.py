import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from search import publication, queries
from search.api.answers import found_body
from search.engine import storage
from search.engine.errors import CropRefused, EngineError, IndexNotBuilt
from search.engine.pictures.crop import Crop
from search.http.errors import body_of, error_body
from search.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Print the pictures most similar to a given one as a JSON object in the format of the API."
    only_reads = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.error = self._fail_usage  # type: ignore[method-assign]  # in JSON as well
        parser.add_argument(
            "--query_image",
            type=Path,
            required=True,
            nargs="+",
            action="extend",
            help=f"picture to search with, or up to {queries.MAX_PICTURES}, for what lies between them",
        )
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--company", help="company to search")
        where.add_argument("--embeddings_dir", type=Path, help="index directory to search")
        parser.add_argument("--crop", type=_crop, help="search with this part of the picture alone: x,y,width,height")
        parser.add_argument("--top_k", type=_at_least_one, default=queries.DEFAULT_TOP_K)
        parser.add_argument(
            "--collapse", choices=["duplicates"], help="of pictures that show the same only the best, and more others"
        )
        parser.add_argument("--images_base_dir", type=Path, help="print absolute paths, below this directory")

    def handle(
        self,
        *,
        query_image: list[Path],
        company: str | None,
        embeddings_dir: Path | None,
        crop: Crop | None,
        top_k: int,
        collapse: str | None,
        images_base_dir: Path | None,
        **options: Any,
    ) -> None:
        if len(query_image) > queries.MAX_PICTURES:
            self._fail_usage(
                f"argument --query_image: at most {queries.MAX_PICTURES} pictures are searched with at a time"
            )
        try:
            if embeddings_dir:
                search = partial(queries.find_similar, storage.load(embeddings_dir.absolute()))
            else:
                found_company = queries.find_company(company or "")
                with suppress(IndexNotBuilt):  # the search tells
                    publication.index_files(found_company)
                search = partial(queries.search, found_company)
            with ExitStack() as files:
                pictures = [
                    queries.QueryPicture(files.enter_context(each.open("rb")), each.name) for each in query_image
                ]
                filters = queries.Filters(collapse=collapse is not None)
                found = search(pictures, crop=crop, top_k=top_k, filters=filters)
        except OSError as error:
            message = f"{error.filename or query_image[0]} cannot be read: {error.strerror}"
            self._fail(error_body(message, "file_unreadable"))
        except (EngineError, LookupError, ValueError) as error:
            body = body_of(error)
            body.pop("hint", None)  # of keys, which nobody needs here
            self._fail(body)
        body = found_body(company, found)
        if images_base_dir:
            for entry in body["results"]:
                entry["fullPath"] = str(images_base_dir.absolute() / entry["fullPath"])
        self.stdout.write(json.dumps(body, indent=2))

    def _fail_usage(self, message: str) -> NoReturn:
        self._fail(error_body(message, "usage"))

    def _fail(self, body: dict[str, Any]) -> NoReturn:
        self.stdout.write(json.dumps(body))
        sys.exit(1)


def _crop(text: str) -> Crop:
    try:
        return Crop.parse(text)
    except CropRefused as error:
        raise ArgumentTypeError(str(error)) from error


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 1000 or int(text) < 1:
        raise ArgumentTypeError("must be a whole number of at least 1")
    return int(text)
