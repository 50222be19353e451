from django.conf import settings
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest


class WrittenElsewhere(admin.ModelAdmin):
    """On a read-only machine the pages show rows and offer nothing that would be refused."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return not settings.READ_ONLY and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return not settings.READ_ONLY and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return not settings.READ_ONLY and super().has_delete_permission(request, obj)
