"""The admin's site. Django asks for it before there are models, so it imports them late."""

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite, autodiscover
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks
from django.db.models import CharField, Q, QuerySet
from django.db.models.functions import Cast
from django.http import HttpRequest

from tenants.read_only import where_to_write


class ConfiningSite(AdminSite):
    """Keeps from users who are confined to some companies what they did elsewhere before.

    The apps' pages are imported when they are first wanted: most commands want none, and they take the engine along.
    """

    def get_urls(self) -> list[Any]:
        """Return the pages; no row has a page elsewhere that Django's short cut could lead to."""
        autodiscover()
        return [each for each in super().get_urls() if getattr(each, "name", None) != "view_on_site"]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what all pages show; on a read-only machine their head says that it is one, and where to write."""
        context = super().each_context(request)
        return context | ({"site_header": f"{self.site_header}. {where_to_write()}"} if settings.READ_ONLY else {})

    def get_log_entries(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the recent actions of the home page: of the confined only those on what they can see now."""
        from tenants.models import is_confined

        entries = super().get_log_entries(request)
        return entries.filter(self._on_visible_rows(request)) if is_confined(request.user) else entries

    def _on_visible_rows(self, request: HttpRequest) -> Q:
        visible = Q(pk=None)  # nothing
        for model, pages in self._registry.items():
            if pages.has_view_permission(request):
                ids = pages.get_queryset(request).order_by().values(text=Cast("pk", CharField()))
                of_model = Q(content_type__app_label=model._meta.app_label, content_type__model=model._meta.model_name)
                visible |= of_model & Q(object_id__in=ids)
        return visible


class ConfiningAdminConfig(SimpleAdminConfig):
    default_site = "tenants.site.ConfiningSite"

    def ready(self) -> None:
        """Register Django's checks of the admin; not its own way, which would leave out pages not imported yet."""
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(_check_pages, checks.Tags.admin)


def _check_pages(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    autodiscover()
    return check_admin_app(app_configs)
