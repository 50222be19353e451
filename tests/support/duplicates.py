"""Pictures that are no blank ones, and searches for duplicates as workers carry them out, in the test's own process."""

from collections.abc import Iterable, Mapping
from io import BytesIO

from django.core.management import call_command
from PIL import Image, ImageDraw

from search import overlay
from search.companies.duplicates import carry_out
from search.duplicates import groups_of
from search.engine.index.duplicates import ALL, Level
from tenants.models import Company, DuplicateSearch


def drawn(colour: tuple[int, int, int], *, size: int = 64) -> Image.Image:
    """Return a picture of a black shape on a colour: two colours have little in common, two sizes nearly all."""
    image = Image.new("RGB", (64, 64), colour)
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 12, 30, 28), fill=(0, 0, 0))
    draw.ellipse((34, 30, 60, 50), fill=(0, 0, 0))
    return image.resize((size, size), Image.Resampling.LANCZOS)


def content(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def company_of(name: str, pictures: Mapping[str, Image.Image]) -> Company:
    """Return a new company with an index of the pictures, by path."""
    company = Company.objects.create(name=name)
    for path, image in pictures.items():
        save(company, path, image)
    call_command("build_embeddings", company=name)
    company.refresh_from_db()
    return company


def save(company: Company, path: str, image: Image.Image) -> None:
    """Put a picture into the company's folder."""
    file = company.image_directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def look(company: Company) -> DuplicateSearch:
    """Look for the company's duplicates, or carry out the search that is queued."""
    search = DuplicateSearch.objects.ask(company)
    assert search.start()
    carry_out(search)
    search.refresh_from_db()
    return search


def grouped(company: Company, levels: Iterable[Level] = ALL) -> list[list[str]]:
    """Return the paths of each group, the leader's first."""
    company.refresh_from_db()
    found = groups_of(company, overlay.live_index(company), levels=frozenset(levels))
    return [[group.leader.path, *(member.image.path for member in group.members)] for group in found]
