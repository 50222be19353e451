"""Who looks at a page, and which companies' pictures may be shown to them. Keys mean nothing here, sessions do."""

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Q
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request

from tenants.models import Company, CompanyQuerySet

Visitor = User | AnonymousUser | None


class OwnSession(SessionAuthentication):
    """The user of the session. The token against forged requests is asked for by enforce_csrf(), of strangers too."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        user = request._request.user
        return (user, None) if isinstance(user, User) and user.is_active else None


def searchable_by(visitor: Visitor) -> CompanyQuerySet:
    """Return the active companies whose search page this visitor may open."""
    visible = Company.objects.visible_to(visitor).values("pk")
    return Company.objects.active().filter(Q(public_page=True) | Q(pk__in=visible))
