from django.core.management.base import CommandError

from tenants.models import Company


def find_company(name: str) -> Company:
    """Return the company of this name, whether it is active or not. Raises CommandError."""
    company = Company.objects.filter(name=name).first()
    if company is None:
        raise CommandError(f"Company {name} does not exist: manage.py build_embeddings --company {name} creates it")
    return company
