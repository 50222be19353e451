"""Where a company's pictures lie."""

from django.conf import settings

from search import stores
from search.engine.pictures.folders import DiskFolder, PictureFolder, stored_folder
from tenants.models import Company


def folder_of(company: Company) -> PictureFolder:
    """Return the company's pictures; nothing has been looked at yet."""
    if company.has_stored_pictures:
        return stored_folder(company.image_folder, endpoint=settings.STORE_ENDPOINT, hurried=stores.is_hurried())
    return DiskFolder(company.image_directory)
