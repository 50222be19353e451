"""Users and groups in the admin: Django's pages, with the companies that a user is confined to."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest

from tenants import audit
from tenants.confined_admin import ForTheUnconfined
from tenants.models import Confinement


class ConfinementForm(ModelForm):
    class Meta:
        help_texts = {
            "companies": "The only companies that this user can see. None chosen: the user sees no company. "
            "To let the user see all companies, tick Delete."
        }

    def has_changed(self) -> bool:
        """Count one just added as changed also where no company is chosen: its user sees none."""
        return self.instance._state.adding or super().has_changed()


class ConfinementFormSet(BaseInlineFormSet):
    def clean(self) -> None:
        super().clean()
        user: User = self.instance
        kept = any(not form.cleaned_data.get("DELETE") for form in self.forms if form.is_valid())
        if kept and user.is_superuser:
            raise ValidationError("A superuser sees all companies: remove the confinement, or the superuser status.")


class ConfinementInline(admin.StackedInline):
    """On the page of a user, for whoever may change users."""

    model = Confinement
    form = ConfinementForm
    formset = ConfinementFormSet
    extra = 0
    max_num = 1
    verbose_name = "confinement to companies"
    filter_horizontal = ("companies",)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perms(["auth.view_user"]) or self.has_change_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("auth.change_user")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.has_change_permission(request)


class ConfiningUserAdmin(ForTheUnconfined, UserAdmin):
    def get_inlines(self, request: HttpRequest, obj: User | None) -> list[type[admin.options.InlineModelAdmin]]:
        """A superuser's page has none, unless there is one to remove."""
        offered = obj is not None and (not obj.is_superuser or Confinement.objects.filter(user=obj).exists())
        return [ConfinementInline] if offered else []

    def save_related(self, request: HttpRequest, form: ModelForm, formsets: Any, change: bool) -> None:
        before = _confined_to(form.instance)
        super().save_related(request, form, formsets, change)
        after = _confined_to(form.instance)
        if before != after:
            action, detail = _told(before, after)
            audit.record(audit.in_admin(request), action, "", f"{form.instance}: {detail}")


class ConfiningGroupAdmin(ForTheUnconfined, GroupAdmin):
    pass


def _confined_to(user: User) -> list[str] | None:
    """Return the names of the companies that the user is confined to; None where the user sees all."""
    confinement = Confinement.objects.filter(user=user).first()
    return [company.name for company in confinement.companies.all()] if confinement else None


def _told(before: list[str] | None, after: list[str] | None) -> tuple[audit.Action, str]:
    """Return what the audit says of a confinement that has changed."""
    was, now = (", ".join(names or []) or "no company" for names in (before, after))
    if after is None:
        return audit.Action.CONFINEMENT_LIFTED, f"all companies, before: {was}"
    if before is None:
        return audit.Action.USER_CONFINED, now
    return audit.Action.CONFINEMENT_CHANGED, f"{now}, before: {was}"


admin.site.unregister([User, Group])
admin.site.register(User, ConfiningUserAdmin)
admin.site.register(Group, ConfiningGroupAdmin)
