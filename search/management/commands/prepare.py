import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

from search import publication
from search.checks import SETTINGS, STORES
from search.companies import demo
from search.companies.adoption import EarlierIndex, adopt_companies, get_or_create_company
from search.companies.model_change import is_demo_outdated
from search.engine.errors import StoreUnavailable
from search.management.operator_command import OperatorCommand
from tenants import audit
from tenants.models import Company
from tenants.read_only import where_to_write


class Command(OperatorCommand):
    help = "Prepare a checkout to start: migrate, adopt indexes, create the demo and a superuser. Safe to repeat."
    requires_system_checks = [SETTINGS, STORES]
    only_reads = True  # on a read-only machine

    def handle(self, **options: Any) -> None:
        if settings.READ_ONLY:
            self.stdout.write(f"{where_to_write()}. Nothing is prepared, and no build worker is started.")
            return
        call_command("migrate", verbosity=0)
        try:
            for company in adopt_companies(by=audit.on_command_line()):
                self.stdout.write(f"Adopted the index of {company}")
        except StoreUnavailable as error:
            self.stderr.write(self.style.WARNING(f"No index is adopted. {error}"))
        if not Company.objects.exclude(name=demo.COMPANY).exists():
            self._make_demo()
        password = _make_superuser()
        self._tell_what_to_try(password)

    def _make_demo(self) -> None:
        company, is_new, _ = get_or_create_company(
            demo.COMPANY, image_folder=None, earlier_index=EarlierIndex.REMOVE, by=audit.on_command_line()
        )
        if is_new:  # an earlier one stays as its owner left it
            company.public_page = True
            company.change(by=audit.on_command_line(), detail="public_page = True")
        if not publication.is_listed(company):
            self.stdout.write("No company exists yet: creating one called demo, with generated pictures")
            if not company.has_stored_pictures:
                demo.draw_demo_pictures(company.image_directory)
        elif not is_demo_outdated():
            return
        call_command("build_embeddings", company=demo.COMPANY)

    def _tell_what_to_try(self, password: str | None) -> None:
        company = Company.objects.active().first()
        address = f"http://localhost:{settings.PORT}"
        self.stdout.write(f"\nOpen:    {address}/")
        if company and company.name == demo.COMPANY:
            picture = _some_picture(company)
            self.stdout.write(f"Search:  curl -F image=@{picture} {address}/api/search/{company}")
        self.stdout.write(f"API:     {address}/api/docs/\nAdmin:   {address}/admin/")
        if password:
            self.stdout.write(
                self.style.WARNING(
                    f"         user admin, password {password} (store it now; it will not be shown again)"
                )
            )
        self.stdout.write("Ctrl-C stops everything.\n")


def _some_picture(company: Company) -> Path | str:
    found = iter(()) if company.has_stored_pictures else company.image_directory.rglob("*.jpg")
    return next(found, "PICTURE.jpg")


def _make_superuser() -> str | None:
    """Return the password of the first superuser, made here, or None where there is one already."""
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser("admin", password=password)
    return password
