"""What admin pages keep from users who are confined to some companies: other companies do not exist for them."""

from typing import Any

from django.contrib import admin
from django.db.models import Field, ForeignKey, Model, QuerySet
from django.forms import ModelChoiceField
from django.http import HttpRequest

from tenants.models import Company, is_confined
from tenants.read_only_admin import WrittenElsewhere


class OfCompanies(admin.ModelAdmin):
    """Rows that have a company each."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        if not is_confined(request.user):
            return rows
        return rows.filter(company__in=Company.objects.within_confinement_of(request.user))

    def formfield_for_foreignkey(
        self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField | None:
        if db_field.related_model is Company:
            kwargs["queryset"] = Company.objects.within_confinement_of(request.user)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


class CompanyFilter(admin.RelatedFieldListFilter):
    def field_choices(
        self, field: Field[Any, Any], request: HttpRequest, model_admin: admin.ModelAdmin
    ) -> list[tuple[str, Any]]:
        companies = Company.objects.within_confinement_of(request.user)
        return [(str(company.pk), company.name) for company in companies.only("name")]


class ForTheUnconfined(WrittenElsewhere):
    """Rows that a confined user neither sees nor changes, whatever permissions the user has."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows.none() if is_confined(request.user) else rows

    def has_module_permission(self, request: HttpRequest) -> bool:
        return not is_confined(request.user) and super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return not is_confined(request.user) and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return not is_confined(request.user) and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return not is_confined(request.user) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return not is_confined(request.user) and super().has_delete_permission(request, obj)
