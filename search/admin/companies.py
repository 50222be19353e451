"""Companies in the admin: the list, a page for each, and saving it."""

from functools import partial
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Prefetch
from django.forms import ChoiceField, ModelForm, RadioSelect
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from search import publication
from search.admin.access import to_page
from search.admin.deletion import Deletion
from search.admin.duplicates import Duplicates
from search.admin.fragments import CELLS, Fragments, live_cell
from search.admin.model import ModelPages
from search.admin.site import Assets
from search.admin.uploads import Uploads
from search.admin.usage import usage_chart
from search.companies import adoption
from search.companies.adoption import EarlierIndex, EarlierIndexFound
from search.engine.errors import EngineError
from tenants import audit
from tenants.models import Company, CompanyQuerySet, DailySearches, IndexBuild, SearchUsage, is_confined


class NewCompanyForm(ModelForm):
    """Asks what becomes of an index that lies where the new company's will."""

    earlier_index = ChoiceField(
        label="Earlier index",
        widget=RadioSelect,
        required=False,
        choices=[
            (EarlierIndex.USE, "Use it: its pictures can be searched, with the access settings that it had."),
            (EarlierIndex.REMOVE, "Remove it: the company starts without an index. This cannot be undone."),
        ],
    )

    def clean(self) -> None:
        super().clean()
        name, choice = self.cleaned_data.get("name", ""), _choice(self)
        if choice is EarlierIndex.REMOVE:
            return
        try:
            adoption.settle_earlier_index(Company(name=name), choice)
        except EarlierIndexFound:
            self.add_error("earlier_index", f"There is already an index of {name} on the disk. Use it or remove it?")
        except EngineError as error:
            self.add_error("earlier_index", f"{error}. Repair it or remove it.")


def _help_on_folders() -> str:
    """Return what the form says of the image folder, with the stores that are allowed."""
    stores = (
        f" In an object store: a folder below {' or '.join(settings.IMAGE_STORES)}." if settings.IMAGE_STORES else ""
    )
    return f"{Company._meta.get_field('image_folder').help_text}{stores}"


@admin.register(Company)
class CompanyAdmin(Duplicates, Uploads, Fragments, ModelPages, Deletion):
    list_display = ("name", *CELLS, "searches_today", "active", "search_page")
    list_per_page = 50
    search_fields = ("name", "notes")
    fields = (
        "name",
        "active",
        "image_folder",
        "daily_quota",
        "searches_today",
        "max_pictures",
        "max_bytes",
        "requires_api_key",
        "public_page",
        "prefetch",
        "notes",
    )
    actions = ("reindex", "rebuild", "roll_back")

    Media = Assets

    def get_fields(self, request: HttpRequest, obj: Company | None = None) -> tuple[str, ...]:
        fields = [name for name in self.fields if name != "prefetch" or settings.STORE]
        asks = obj is None and adoption.has_earlier_index(request.POST.get("name", ""))
        return (*fields[:1], *(["earlier_index"] if asks else []), *fields[1:])

    def get_form(
        self, request: HttpRequest, obj: Company | None = None, change: bool = False, **kwargs: Any
    ) -> type[ModelForm]:
        helped = {"help_texts": {"image_folder": _help_on_folders()}, **kwargs}
        return super().get_form(request, obj, change, **(helped if change else {"form": NewCompanyForm, **helped}))

    def get_readonly_fields(self, request: HttpRequest, obj: Company | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("searches_today",)
        # What can be said of other folders would tell the confined of other companies.
        return ("name", *(["image_folder"] if is_confined(request.user) else []), "searches_today")

    def get_queryset(self, request: HttpRequest) -> CompanyQuerySet:
        last_build = Prefetch("builds", queryset=IndexBuild.objects.all()[:1], to_attr="last_builds")
        used = Prefetch("search_usage", queryset=SearchUsage.objects.today(), to_attr="usage_today")
        searches = Prefetch("daily_searches", queryset=DailySearches.objects.of_last(1), to_attr="searches_of_today")
        return super().get_queryset(request).prefetch_related(last_build, used, searches)

    # The list

    @admin.display(description="Status")
    def status(self, company: Company) -> SafeString:
        return live_cell(company, "status")

    @admin.display(description="Pictures")
    def pictures(self, company: Company) -> SafeString:
        return live_cell(company, "pictures")

    @admin.display(description="Last build")
    def last_build(self, company: Company) -> SafeString:
        return live_cell(company, "last_build")

    @admin.display(description="Size on disk")
    def size(self, company: Company) -> SafeString:
        return live_cell(company, "size")

    @admin.display(description="Searches today")
    def searches_today(self, company: Company) -> str:
        if company.daily_quota is None:
            return f"{sum(row.searches for row in company.__dict__.get('searches_of_today', [])):,}"
        used = sum(usage.searches for usage in company.__dict__.get("usage_today", []))
        return f"{used:,} of {company.daily_quota:,}"

    @admin.display(description="Search page")
    def search_page(self, company: Company) -> SafeString | str:
        if not company.active:
            return "-"
        address = reverse("search-page", args=[company.name])
        return format_html('<a href="{}">Search<span class="seen-by-readers"> {}</span></a>', address, company)

    # One company

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        company = self.get_object(request, object_id)
        page = {}
        if company and self.has_view_permission(request, company):
            page = {**self.page(request, company), "usage": usage_chart(company)}
        return super().change_view(request, object_id, form_url, {**page, **(extra_context or {})})

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            # Saving leads to the new company's page anyway.
            return super().add_view(request, form_url, {"show_save_and_continue": False, **(extra_context or {})})
        except (EarlierIndexFound, EngineError, OSError) as error:
            self.message_user(request, f"No company was added. {error}", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def response_post_save_add(self, request: HttpRequest, obj: Company) -> HttpResponseRedirect:
        """Lead to the new company's page, where its pictures are uploaded."""
        return to_page(obj) if self.has_view_permission(request, obj) else super().response_post_save_add(request, obj)

    def save_model(self, request: HttpRequest, obj: Company, form: ModelForm, change: bool) -> None:
        if not change:
            adoption.settle_earlier_index(obj, _choice(form))
        save = obj.change if change else partial(adoption.add_company, obj)
        save(by=audit.in_admin(request), detail=_changes(form))
        if not change:
            self._tell_of_earlier_index(request, obj)
        elif "image_folder" in form.changed_data:
            self.message_user(request, f"The image folder of {obj} has changed: reindex it.", messages.WARNING)

    def _tell_of_earlier_index(self, request: HttpRequest, company: Company) -> None:
        if not publication.is_listed(company):
            return
        adoption.record_index(company)
        if not company.active:
            text = f"{company} is inactive: its earlier index was inactive or does not say. Activate it on its page."
            self.message_user(request, text, messages.WARNING)


def _choice(form: ModelForm) -> EarlierIndex | None:
    choice = form.cleaned_data.get("earlier_index")
    return EarlierIndex(choice) if choice else None


def _changes(form: ModelForm) -> str:
    """Return what the form has changed, for the audit; for the notes only that they changed."""
    return ", ".join(name if name == "notes" else f"{name} = {form.cleaned_data[name]!r}" for name in form.changed_data)
