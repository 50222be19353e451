"""Admin pages for plain rows: API keys and the audit."""

from datetime import date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import DateTimeField, Model, QuerySet
from django.forms import ModelForm, SplitDateTimeField
from django.forms.widgets import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.text import capfirst
from django.views.decorators.http import require_GET, require_POST

from tenants import audit
from tenants import users_admin as users_admin
from tenants.confined_admin import CompanyFilter, OfCompanies
from tenants.models import ApiKey, AuditEvent, Company, is_confined
from tenants.read_only_admin import WrittenElsewhere


class Style:
    css = {"all": ["search/admin.css"]}
    js = [Script("search/lists.js", defer=True)]


class PlainTitles(WrittenElsewhere):
    """Pages that are called as what they show: Companies, boutique."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        title = {"title": capfirst(self.opts.verbose_name_plural)}
        return super().changelist_view(request, {**title, **(extra_context or {})})

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        title = {"title": str(obj), "subtitle": None} if obj else {}
        return super().render_change_form(request, {**context, **title}, add, change, form_url, obj)


class UnchangedAdmin(PlainTitles):
    """Rows that cannot be edited or deleted."""

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnlyAdmin(UnchangedAdmin):
    """Rows that cannot be added either."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


class ExpiryField(SplitDateTimeField):
    """A moment to come, UTC: a date and a time, or a date alone, which counts to its end."""

    def compress(self, data_list: Any) -> datetime | None:
        day, moment = data_list or (None, None)
        if isinstance(day, date) and moment is None:
            if day == date.max:
                raise ValidationError("This date is too far away.")
            data_list = [day + timedelta(days=1), time()]
        expires: datetime | None = super().compress(data_list)
        if expires and expires <= timezone.now():
            raise ValidationError("This is in the past: the key would never work.")
        return expires


@admin.register(ApiKey)
class ApiKeyAdmin(OfCompanies, UnchangedAdmin):
    """Keys are created and revoked, never edited."""

    list_display = (
        "prefix",
        "name",
        "company",
        "state",
        "permissions",
        "created",
        "created_by",
        "expires",
        "last_used",
    )
    list_filter = (("company", CompanyFilter), "can_write")
    list_per_page = 50
    list_select_related = ("company", "created_by")
    search_fields = ("prefix", "name", "company__name")
    actions = ("revoke",)
    formfield_overrides = {
        DateTimeField: {
            "form_class": ExpiryField,
            "widget": AdminSplitDateTime,
            "help_text": "When the key stops working, UTC; without a time at the end of that day. Empty: never.",
        }
    }

    Media = Style

    _TEXT = "made_api_key"  # the cookie that brings a key's text from where it is made to where it is shown
    _TEXT_SECONDS = 60

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        made = ("prefix", "state", "created", "created_by", "last_used", "revoked")
        return ("company", "name", "permissions" if obj else "can_write", "expires", *(made if obj else ()))

    @admin.display(ordering="can_write")
    def permissions(self, key: ApiKey) -> str:
        return "search, write" if key.can_write else "search"

    def get_form(
        self, request: HttpRequest, obj: Model | None = None, change: bool = False, **kwargs: Any
    ) -> type[ModelForm]:
        """Choose a company, without the icons to add and change one."""
        form = super().get_form(request, obj, change, **kwargs)
        if "company" in form.base_fields:
            widget = form.base_fields["company"].widget
            widget.can_add_related = widget.can_change_related = widget.can_view_related = False
        return form

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        one_button = {"show_save_and_add_another": False, "show_save_and_continue": False}  # all lead to the key's text
        return super().add_view(request, form_url, {**one_button, **(extra_context or {})})

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return not settings.READ_ONLY and request.user.has_perm("tenants.change_apikey")

    def get_urls(self) -> list[URLPattern]:
        revoke = self.admin_site.admin_view(require_POST(self.revoke_view))
        made = self.admin_site.admin_view(require_GET(self.made_view))
        return [
            path("<int:pk>/revoke/", revoke, name="tenants_apikey_revoke"),
            path("<int:pk>/made/", made, name="tenants_apikey_made"),
            *super().get_urls(),
        ]

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        # For response_add, which is given this instance; it is kept nowhere else.
        obj.text = obj.issue(by=audit.in_admin(request))

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Lead to the page that shows the key, so that a reload makes no other.

        Its text is stored nowhere: a cookie brings it there, which only that page is sent and which it removes.
        """
        page = reverse("admin:tenants_apikey_made", args=[obj.pk])
        response = HttpResponseRedirect(page)
        response.set_signed_cookie(
            self._TEXT,
            obj.text,
            salt=_salt(request, obj.pk),
            max_age=self._TEXT_SECONDS,
            path=page,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Strict",
        )
        return response

    def made_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show a new key to who has made it, once; admin pages are not cached."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        key = get_object_or_404(self.get_queryset(request), pk=pk)
        text = request.get_signed_cookie(self._TEXT, None, salt=_salt(request, pk), max_age=self._TEXT_SECONDS)
        context = {
            **self.admin_site.each_context(request),
            "title": f"API key for {key.company}",
            "opts": self.opts,
            "key": key,
            "text": text,
        }
        response = TemplateResponse(request, "admin/tenants/apikey/made.html", context)
        response.delete_cookie(self._TEXT, path=request.path, samesite="Strict")
        return response

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        for key in keys:
            self._revoke(request, key)

    def revoke_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        key = get_object_or_404(self.get_queryset(request), pk=pk)
        self._revoke(request, key)
        return HttpResponseRedirect(reverse("admin:tenants_company_change", args=[key.company_id]))

    def _revoke(self, request: HttpRequest, key: ApiKey) -> None:
        if key.revoke(by=audit.in_admin(request)):
            self.log_change(request, key, "Revoked.")
            self.message_user(request, f"API key {key} of {key.company} was revoked.", messages.SUCCESS)
        else:
            self.message_user(request, f"API key {key} was already revoked.", messages.WARNING)


def _salt(request: HttpRequest, pk: int) -> str:
    return f"tenants.ApiKey.made {pk} {request.user.pk}"


class CompanyOfEvent(admin.SimpleListFilter):
    """One company's events: one made anew under the name of one that was deleted is another company."""

    title = "company"
    parameter_name = "company_key"

    def has_output(self) -> bool:
        return True

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        there = set(Company.objects.values_list("pk", flat=True))
        known = model_admin.get_queryset(request).exclude(company_key=None).order_by("company", "-company_key")
        return [
            (str(key), name if key in there else f"{name} (deleted)")
            for key, name in known.values_list("company_key", "company").distinct()
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        key = self.value()
        if key is None:
            return queryset
        return queryset.filter(company_key=int(key)) if key.isdecimal() and len(key) < 19 else queryset.none()


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Read-only."""

    list_display = ("at", "actor", "channel", "action", "company", "detail")
    list_filter = (CompanyOfEvent, "action", "channel", "at")
    list_per_page = 100
    search_fields = ("actor", "company", "detail")
    date_hierarchy = "at"

    Media = Style

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEvent]:
        """Return the events; to confined users only those of companies that are there and that they can see."""
        events = super().get_queryset(request)
        if not is_confined(request.user):
            return events
        return events.filter(company_key__in=Company.objects.within_confinement_of(request.user).values("pk"))
