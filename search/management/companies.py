from difflib import get_close_matches

from django.core.management.base import CommandError

from tenants.models import Company

_SUGGESTED = 3


def find_company(name: str) -> Company:
    """Return the company of this name, whether it is active or not. Raises CommandError."""
    company = Company.objects.filter(name=name).first()
    if company is None:
        raise CommandError(f"{unknown(name)} build_embeddings --company {name} --create creates it")
    return company


def unknown(name: str) -> str:
    """Return that there is no company of this name, and which ones have a similar name."""
    known = {each.lower(): each for each in Company.objects.values_list("name", flat=True)}
    similar = [known[each] for each in get_close_matches(name.lower(), known, n=_SUGGESTED)]
    return f"Company {name} does not exist." + (f" Did you mean {' or '.join(similar)}?" if similar else "")
