import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User

from tenants.models import Company, Confinement

pytestmark = pytest.mark.django_db


def names(user: User | AnonymousUser | None) -> list[str]:
    return [company.name for company in Company.objects.visible_to(user)]


@pytest.fixture(autouse=True)
def _companies() -> None:
    for name in ("acme", "globex", "initech"):
        Company.objects.create(name=name)


def staff(name: str = "colleague", *, permission: str = "view_company") -> User:
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename=permission))
    return User.objects.get(pk=user.pk)


def confine(user: User, *companies: str) -> Confinement:
    confinement = Confinement.objects.create(user=user)
    confinement.companies.set(Company.objects.filter(name__in=companies))
    return confinement


def test_staff_with_the_permission_see_all_companies():
    assert names(staff()) == ["acme", "globex", "initech"]


@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_strangers_see_no_company(user: AnonymousUser | None):
    assert names(user) == []


def test_staff_without_the_permission_see_no_company_even_if_they_are_listed():
    user = staff(permission="view_apikey")
    confine(user, "acme")
    assert names(user) == []


@pytest.mark.parametrize("state", ["is_active", "is_staff"])
def test_users_who_are_no_longer_active_staff_see_no_company(state: str):
    user = staff()
    setattr(user, state, False)
    assert names(user) == []


def test_confined_staff_see_the_companies_of_their_list_and_others_see_all_of_them_once():
    confine(staff("one"), "acme", "globex")
    confine(staff("other"), "acme")
    assert names(User.objects.get(username="one")) == ["acme", "globex"]
    assert names(User.objects.get(username="other")) == ["acme"]
    assert names(staff("third")) == ["acme", "globex", "initech"]


def test_confined_staff_see_nothing_once_the_last_company_of_their_list_is_deleted():
    user = staff()
    confine(user, "acme")
    Company.objects.get(name="acme").delete()
    assert names(user) == []


def test_superusers_see_all_companies():
    root = User.objects.create_superuser("root")
    confine(root, "acme")
    assert names(root) == ["acme", "globex", "initech"]
