import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from search import queries
from search.engine import storage
from search.engine.errors import EngineError
from search.exceptions import error_body
from search.serializers import result


class Command(BaseCommand):
    help = "Print the pictures most similar to a picture as one JSON object, shaped like the API's answer."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--query_image", type=Path, required=True)
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--company", help="whose index is searched")
        where.add_argument("--embeddings_dir", type=Path, help="directory of an index")
        parser.add_argument("--top_k", type=int, default=queries.DEFAULT_TOP_K)
        parser.add_argument("--images_base_dir", type=Path, help="print absolute paths below this directory")

    def handle(
        self,
        *,
        query_image: Path,
        company: str | None,
        embeddings_dir: Path | None,
        top_k: int,
        images_base_dir: Path | None,
        **options: Any,
    ) -> None:
        try:
            if top_k < 1:
                raise ValueError("top_k: must be a whole number of at least 1")
            index = (
                queries.company_index(queries.find_company(company))
                if company
                else storage.load((embeddings_dir or Path()).absolute())
            )
            with query_image.open("rb") as image:
                matches = queries.find_similar(index, image, name=query_image.name, top_k=top_k)
        except (EngineError, LookupError, OSError, ValueError) as error:
            self.stdout.write(json.dumps(error_body(str(error))))
            sys.exit(1)
        results = [result(match) for match in matches]
        if images_base_dir:
            for entry in results:
                entry["fullPath"] = str(images_base_dir.absolute() / entry["fullPath"])
        body = {
            "success": True,
            "company": company,
            "results": results,
            "total_results": len(results),
            "query_processed": True,
            "timestamp": storage.timestamp(),
        }
        self.stdout.write(json.dumps(body, indent=2))
