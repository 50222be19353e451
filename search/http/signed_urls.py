"""URLs of pictures that are signed, for browsers: an <img> sends no headers, and cookies mean nothing under /api.

A signature is over the company's row, the picture's id, the size, who looks, and when it ends. Who looks is asked about
again at each use: a key that is revoked, a staff user who may no longer view the company, or a page that is no longer
public opens nothing. Who may have such a URL is decided by whoever makes it, see search/http/access.py.
"""

import json
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib.auth import get_user_model
from django.core.signing import BadSignature, Signer
from django.urls import reverse

from search.queries import CompanyNotFound, find_company
from tenants.models import ApiKey, Company

PARAMETER = "signed"

_HOUR = 3600


class LinkRefused(Exception):
    """In the same words whatever is wrong, so that they tell nothing about companies and keys."""

    def __init__(self) -> None:
        super().__init__("This link to a picture has expired or is not valid: search again, or load the page again")


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: the holder of a key, a staff user, or, where neither is given, anybody who sees a public page."""

    key: str = ""  # the key's prefix
    user: int | None = None  # the user's primary key

    def __str__(self) -> str:
        if self.key:
            return f"k{self.key}"
        return "p" if self.user is None else f"u{self.user}"

    @classmethod
    def parse(cls, text: str) -> "Viewer":
        """Return the viewer whose text this is, one that str() has made."""
        kind, name = text[:1], text[1:]
        if kind == "k":
            return cls(key=name)
        return cls(user=int(name)) if kind == "u" else cls()

    def may_see(self, company: Company) -> bool:
        """Return whether the pictures of an active company are for this viewer, as of now."""
        if self.key:
            return ApiKey.objects.usable().filter(prefix=self.key, company=company).exists()
        if self.user is None:
            return company.public_page
        user = get_user_model().objects.filter(pk=self.user, is_active=True, is_staff=True).first()
        return user is not None and Company.objects.visible_to(user).filter(pk=company.pk).exists()


@dataclass(frozen=True, slots=True)
class PictureUrls:
    url: str  # of the file as it is
    thumbnail_url: str


def picture_urls(company: Company, image_id: str, *, viewer: Viewer, size: int = 320) -> PictureUrls:
    """Return the paths and queries of a picture, valid to the end of the next full hour.

    viewer: who may see the company's pictures now. size: one of thumbnails.SIZES. Within an hour they are the same.
    """
    image_id = image_id.encode("utf-8", "replace").decode() or "-"  # indexes of other programs have any text
    expires = str((int(time.time()) // _HOUR + 2) * _HOUR)

    def signed(name: str, size: int | None) -> str:
        token = f"{viewer}.{expires}.{_signature(company, image_id, size, str(viewer), expires)}"
        query = {PARAMETER: token} if size is None else {"size": size, PARAMETER: token}
        return f"{reverse(name, args=[company.name, image_id])}?{urlencode(query)}"

    return PictureUrls(signed("picture", None), signed("thumbnail", size))


def company_of_link(name: str, image_id: str, *, size: int | None, token: str) -> Company:
    """Return the company whose picture a signed URL opens. Raises LinkRefused.

    size: of the thumbnail; None: the file as it is. token: the URL's parameter, anything that a stranger may send.
    """
    try:
        company = find_company(name)
        viewer, expires, signature = token.split(".")
        signed = _signed(company, image_id, size, viewer, expires)
        Signer(salt=__name__).unsign(f"{signed}:{signature}")
    except (CompanyNotFound, BadSignature, ValueError):
        raise LinkRefused from None
    if int(expires) <= time.time() or not Viewer.parse(viewer).may_see(company):
        raise LinkRefused
    return company


def _signature(company: Company, image_id: str, size: int | None, viewer: str, expires: str) -> str:
    return Signer(salt=__name__).signature(_signed(company, image_id, size, viewer, expires))


def _signed(company: Company, image_id: str, size: int | None, viewer: str, expires: str) -> str:
    """Return what is signed; a restored database gives primary keys out again, so a company's birth counts as well."""
    return json.dumps([company.pk, company.created_at.timestamp(), image_id, size, viewer, expires])
