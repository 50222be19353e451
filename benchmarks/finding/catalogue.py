"""A company with pictures of one kind, and others of that kind that it does not have."""

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from django.conf import settings
from django.core.management import call_command
from numpy.random import Generator
from PIL import Image

from search import queries, runtime
from search.engine.index.index import ImageIndex
from search.engine.index.match import Match
from search.engine.model.embedder import read_query
from search.engine.pictures.crop import Crop
from search.engine.pictures.folder import ImageFile, find_images
from tenants.models import Company

_HELD_OUT = 6  # one picture in so many

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Catalogue:
    name: str
    drawn: bool
    seed: int
    company: Company
    present: list[Path]  # pictures that the company has
    absent: list[Path]  # pictures of the same kind that it does not have

    def path(self, picture: Path) -> str:
        """Return what the index calls one of the present pictures."""
        return picture.relative_to(self.company.image_directory).as_posix()

    def random(self, *words: object) -> Generator:
        """Return a generator of its own for what the words name, the same one in each run."""
        return np.random.default_rng([self.seed, *"/".join([self.name, *map(str, words)]).encode()])

    def some(self, pictures: list[Path], count: int) -> list[Path]:
        """Return at most count of the pictures, from all over them."""
        places = np.linspace(0, len(pictures), num=min(count, len(pictures)), endpoint=False, dtype=int)
        return [pictures[place] for place in places]

    def index(self) -> ImageIndex:
        return queries.company_index(self.company)

    def find(self, *pictures: bytes, crop: Crop | None = None, top_k: int = 10) -> queries.Found:
        """Return what a search with these files finds."""
        files = [queries.QueryPicture(BytesIO(picture), name_of(picture)) for picture in pictures]
        return queries.search(self.company, files, crop=crop, top_k=top_k)

    def find_untrimmed(self, picture: bytes) -> list[Match] | None:
        """Return what the whole file finds, as before borders were trimmed; None where it has none to be trimmed."""
        embedder = runtime.embedder()
        name, most = name_of(picture), settings.MAX_PIXELS
        whole, *inside = read_query(embedder, BytesIO(picture), name=name, max_pixels=most)
        return self.index().search(embedder.embed([whole])[0], 10) if inside else None


def make_catalogue(name: str, pictures: Path, *, drawn: bool, seed: int, most: int) -> Catalogue:
    """Return a company with an index of most of the pictures below a folder; one in six is left out of it.

    most: how many pictures are used, from all over the folder, where there are more.
    """
    found = [image.path for image in find_images(pictures) if isinstance(image, ImageFile)]
    used = [found[place] for place in np.linspace(0, len(found), num=min(most, len(found)), endpoint=False, dtype=int)]
    order = np.random.default_rng([seed, len(used)]).permutation(len(used))
    left_out = {used[place] for place in order[::_HELD_OUT]}
    folder = Path(settings.MEDIA_ROOT) / name
    present = [path for path in used if path not in left_out]
    for path in present:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / path, folder / path)
    absent = [pictures / path for path in sorted(left_out)]
    return Catalogue(name, drawn, seed, build(name), [folder / path for path in present], absent)


def build(name: str) -> Company:
    """Return the company of this name, with an index of the pictures in its folder."""
    call_command("build_embeddings", company=name, stdout=StringIO(), stderr=StringIO())
    return Company.objects.get(name=name)


def opened(picture: Path) -> Image.Image:
    with Image.open(picture) as image:
        return image.convert("RGB")


def name_of(picture: bytes) -> str:
    with Image.open(BytesIO(picture)) as image:
        return f"picture.{image.format}".lower()


def at_once(work: Callable[[T], R], inputs: Iterable[T]) -> list[R]:
    """Return what work makes of each, in their order, from as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(work, inputs))
