"""Where a company's pictures lie."""

from django.conf import settings

from search.engine.pictures.folders import PictureFolder, picture_folder
from tenants.models import Company


def folder_of(company: Company) -> PictureFolder:
    """Return the company's pictures; nothing has been looked at yet."""
    return picture_folder(company.image_place, endpoint=settings.STORE_ENDPOINT)
