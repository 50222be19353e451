"""Staff who are confined to some companies: of the others they learn nothing and change nothing, whatever they ask."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.test import Client
from django.urls import reverse

from search.http.signed_urls import Viewer, picture_urls
from tenants.audit import Actor, Channel
from tenants.models import ApiKey, AuditEvent, Company, Confinement, IndexBuild, NotDuplicates, SkippedImage
from tests.conftest import paint, picture
from tests.search.http.test_access import basic_of
from tests.support.admin import rebuild
from tests.support.duplicates import look
from tests.support.fakes import BLUE, RED
from tests.support.routes import Route, routes

MakeCompany = Callable[..., Company]

# Rows of the other company have one number, that no row has the other; names of one length for answers that echo them.
HIDDEN, UNKNOWN = 700_001, 700_002
NAMES = {HIDDEN: "globex", UNKNOWN: "nobody"}
# It only leads on to the page of changes.
NOBODY_SEES = re.compile(r"/admin/\w+/\w+/<path:object_id>/")


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of refusals, each with a traceback, would take longer to write than to ask for."""
    caplog.set_level("CRITICAL")


@pytest.fixture
def globex(make_company: MakeCompany) -> Company:
    """The company that is hidden, with a row of each kind, all of which name it."""
    company = Company.objects.create(pk=HIDDEN, name="globex", notes="globex notes")
    paint(company.image_directory / "globex.png", BLUE)
    rebuild(company)
    look(company)
    globex_ann = Actor("globex ann", Channel.ADMIN)
    NotDuplicates.objects.add(company, [("globex-1", "globex-2")], paths=["globex.png"], by=globex_ann)
    build = IndexBuild.objects.create(
        pk=HIDDEN, company=company, status=IndexBuild.Status.FAILED, error="globex failed", images_skipped=1
    )
    SkippedImage.objects.create(build=build, path="globex-broken.png", reason="broken")
    ApiKey.objects.create(pk=HIDDEN, company=company, name="globex shop", prefix="globex", digest="x")
    AuditEvent.objects.create(
        pk=HIDDEN, actor="globex ann", channel="admin", action="key made", company="globex", company_key=HIDDEN
    )
    User.objects.create(pk=HIDDEN, username="globex ann", is_staff=True)
    Group.objects.create(pk=HIDDEN, name="globex staff")
    return company


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"acme.png": RED})


def staff(name: str) -> User:
    """A user with every permission that there is, and no superuser."""
    user = User.objects.create_user(name, password="secret", is_staff=True)
    user.user_permissions.set(Permission.objects.all())
    return user


@pytest.fixture
def vic(acme: Company, globex: Company) -> User:
    """Confined to acme."""
    user = staff("vic")
    Confinement.objects.create(user=user).companies.set([acme])
    return user


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def client_of_vic(vic: User) -> Client:
    return signed_in(vic)


# Every address ------------------------------------------------------------------------------------------------------


def values_of(route: Route, pk: int, image_id: str) -> dict[str, Any]:
    rows = dict.fromkeys(("pk", "object_id", "id", "build_id"), pk)
    content_type = ContentType.objects.get_for_model(Company).pk
    values = {
        **rows,
        "company": NAMES[pk],
        "image_id": image_id,
        "image_path": "globex.png",
        "content_type_id": content_type,
        "app_label": "tenants",
    }
    unknown = set(route.parameters) - set(values)
    assert not unknown, f"{route.template}: say in this test what {unknown} of the hidden company is"
    return values


def ask(client: Client, user: User, method: str, path: str, image_id: str = "") -> Any:
    """image_id: which picture is asked for where the address alone does not say."""
    if path.startswith("/api/"):
        return ask_api(client, basic_of(user.username, "secret"), method, path)
    which = {"id": image_id, "path": "globex.png"} if image_id else {}
    if method == "get":
        return client.get(path, which)
    form = {
        "files": picture(RED),
        "image": picture(RED),
        "post": "yes",
        "confirmed": "1",
        "full": "1",
        "generation": "x",
    }
    return client.post(path, {**form, **which})


def ask_api(client: Client, headers: dict[str, str], method: str, path: str) -> Any:
    match method:
        case "put":
            return client.put(path, picture(RED).getvalue(), content_type="image/png", headers=headers)
        case "post":
            return client.post(path, {"image": picture(RED)}, headers=headers)
    return getattr(client, method)(path, headers=headers)


def seen(client: Client, user: User, method: str, route: Route, pk: int, image_id: str) -> tuple[Any, ...]:
    """Return what the user sees of an answer, but for what was asked for."""
    response = ask(client, user, method, route.path(values_of(route, pk, image_id)), image_id)
    body = b"".join(response.streaming_content) if response.streaming else response.content
    text = body.decode("latin-1").replace(str(pk), "*").replace(NAMES[pk], "*")
    text = re.sub(r'csrfmiddlewaretoken" value="\w+"|"timestamp":"[^"]+"', "", text)
    return response.status_code, response.headers.get("Location", "").replace(str(pk), "*"), text


def methods_of(route: Route) -> tuple[str, ...]:
    return ("get", "post", "put", "delete") if route.template.startswith("/api/") else ("get", "post")


@pytest.fixture
def hidden_image(globex: Company) -> str:
    from search.queries import company_index

    return str(company_index(globex).records[0].id)


def with_rows() -> Iterator[Route]:
    """Yield what names a row; of what the API offers with and without a slash at the end, what has none."""
    for route in routes():
        slashed = route.template.startswith("/api/") and route.template.endswith("/")
        if set(route.parameters) - {"app_label"} and not slashed:
            yield route


def test_no_address_tells_a_hidden_company_from_an_unknown_one_or_changes_it(
    client_of_vic: Client, vic: User, globex: Company, hidden_image: str
) -> None:
    before = snapshot()
    for route in with_rows():
        for method in methods_of(route):
            answers = [seen(client_of_vic, vic, method, route, pk, hidden_image) for pk in (HIDDEN, UNKNOWN)]
            assert answers[0] == answers[1], (method, route.template)
    assert snapshot() == before


@pytest.mark.slow
def test_every_address_tells_them_apart_for_who_is_not_confined(
    acme: Company, globex: Company, hidden_image: str
) -> None:
    """Else the test above would prove nothing of it."""
    user = staff("ann")
    client = signed_in(user)
    for route in with_rows():
        if not NOBODY_SEES.fullmatch(route.template):
            told = any(tells_apart(client, user, method, route, hidden_image) for method in methods_of(route))
            assert told, f"{route.template}: make a row of this kind in the fixture globex"


def tells_apart(client: Client, user: User, method: str, route: Route, image_id: str) -> bool:
    answers = []
    for pk in (HIDDEN, UNKNOWN):
        paint(Company.objects.get(pk=HIDDEN).image_directory / "globex.png", BLUE)  # one before may have deleted it
        with transaction.atomic():
            answers.append(seen(client, user, method, route, pk, image_id))
            transaction.set_rollback(True)
    return answers[0] != answers[1] or answers[0][0] == 403  # which nobody may


def snapshot() -> list[Any]:
    """Return all that there is of the hidden company."""
    globex = Company.objects.get(pk=HIDDEN)
    return [
        Company.objects.filter(pk=HIDDEN).values().get(),
        *globex.builds.order_by("pk").values(),
        *globex.api_keys.order_by("pk").values(),
        *globex.duplicate_searches.order_by("pk").values(),
        *globex.not_duplicates.order_by("pk").values(),
        *AuditEvent.objects.filter(company="globex").order_by("pk").values(),
        *User.objects.filter(pk=HIDDEN).values(),
        *Group.objects.filter(pk=HIDDEN).values(),
        sorted(path.name for path in globex.image_directory.iterdir()),
        sorted(path.name for path in globex.embeddings_directory.iterdir()),
    ]


def test_no_page_names_a_hidden_company(client_of_vic: Client, vic: User) -> None:
    for route in routes():
        if not set(route.parameters) - {"app_label"}:
            path = route.path({"app_label": "tenants"})
            response = ask(client_of_vic, vic, "get", path)
            assert "globex" not in response.content.decode().lower(), path


# What pages offer and take -------------------------------------------------------------------------------------------


def models_with_pages() -> list[Any]:
    return [model for model, _ in admin.site._registry.items()]


def page_of(model: Any, page: str) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}")


@pytest.mark.parametrize("query", ["q=glob", "q=acme", "company__id__exact=700001", "company_key=700001", "all=1"])
def test_no_list_finds_what_is_hidden(client_of_vic: Client, query: str) -> None:
    for model in models_with_pages():
        html = client_of_vic.get(f"{page_of(model, 'changelist')}?{query}", follow=True).content.decode().lower()
        assert "globex" not in html, model


def test_the_script_of_the_list_hears_nothing_of_it(client_of_vic: Client, acme: Company) -> None:
    page = reverse("admin:tenants_company_live_list")
    answer = client_of_vic.get(page, {"id": [HIDDEN, acme.pk]}).json()
    assert list(answer["states"]) == [str(acme.pk)]


def test_no_action_reaches_what_is_hidden(client_of_vic: Client, vic: User, globex: Company) -> None:
    before = snapshot()
    done = 0
    for model, pages in admin.site._registry.items():
        request = client_of_vic.get("/admin/").wsgi_request
        for action in pages.get_actions(request):
            form = {"action": action, "_selected_action": [HIDDEN], "post": "yes", "confirmed": "1"}
            html = client_of_vic.post(page_of(model, "changelist"), form, follow=True).content.decode().lower()
            assert "globex" not in html, (model, action)
            done += 1
    assert done >= 4
    assert snapshot() == before


def test_no_completion_of_what_is_typed_names_it(client_of_vic: Client) -> None:
    offered = 0
    for model in models_with_pages():
        for field in model._meta.get_fields():
            if not (field.is_relation and field.concrete):
                continue
            of = {"app_label": model._meta.app_label, "model_name": model._meta.model_name, "field_name": field.name}
            response = client_of_vic.get(reverse("admin:autocomplete"), {**of, "term": "o"})
            assert "globex" not in response.content.decode(), of
            offered += response.status_code == 200
    assert offered


def test_a_key_is_made_for_no_hidden_company(client_of_vic: Client, acme: Company, globex: Company) -> None:
    page = reverse("admin:tenants_apikey_add")
    html = client_of_vic.get(page).content.decode()
    assert ("acme" in html, "globex" in html) == (True, False)
    hidden, unknown = (client_of_vic.post(page, {"company": pk, "name": "mine"}) for pk in (HIDDEN, UNKNOWN))
    assert (
        hidden.context["errors"]
        == unknown.context["errors"]
        == [["Select a valid choice. That choice is not one of the available choices."]]
    )
    assert globex.api_keys.count() == 1
    assert client_of_vic.post(page, {"company": acme.pk, "name": "mine"}).status_code == 302
    assert acme.api_keys.count() == 1


def test_what_the_user_did_there_before_is_no_recent_action(
    client_of_vic: Client, vic: User, acme: Company, globex: Company
) -> None:
    for company in (acme, globex):
        LogEntry.objects.log_actions(vic.pk, [company], CHANGE, f"Changed {company}.", single_object=True)
    html = client_of_vic.get("/admin/").content.decode()
    assert ("acme" in html, "globex" in html) == (True, False)


def test_the_confined_work_with_their_own(client_of_vic: Client, vic: User, acme: Company) -> None:
    page = reverse("admin:tenants_company_change", args=[acme.pk])
    assert "acme" in client_of_vic.get(page).content.decode()
    assert client_of_vic.post(reverse("admin:tenants_company_reindex", args=[acme.pk])).status_code == 302
    (build,) = acme.builds.active()
    basic = basic_of("vic", "secret")
    client = Client()
    assert client.get(f"/api/builds/{build.pk}", headers=basic).status_code == 200
    assert client.post(f"/api/builds/{build.pk}/cancel", headers=basic).status_code == 200
    assert client.post("/api/search/acme", {"image": picture(RED)}, headers=basic).status_code == 200
    put = client.put("/api/images/acme/b.png", picture(BLUE).getvalue(), content_type="image/png", headers=basic)
    assert put.status_code == 201
    assert AuditEvent.objects.filter(company="acme", actor="vic", channel="basic").exists()


def test_a_signed_address_from_before_shows_nothing_any_more(acme: Company, globex: Company, hidden_image: str) -> None:
    user = staff("joe")
    address = picture_urls(globex, hidden_image, viewer=Viewer(user=user.pk)).url
    assert Client().get(address).status_code == 200
    Confinement.objects.create(user=user).companies.set([acme])
    assert Client().get(address).status_code != 200


@pytest.mark.parametrize("setting", ["off", "required"])
def test_the_lists_of_the_api_hold_what_is_listed_for_the_user(vic: User, settings: Any, setting: str) -> None:
    settings.API_KEYS = setting
    basic = basic_of("vic", "secret")
    client = Client()
    assert [each["name"] for each in client.get("/api/companies", headers=basic).json()["companies"]] == ["acme"]
    health = client.get("/api/health", headers=basic).json()
    assert health["total_companies_available"] == 1
    assert "globex" not in health["loaded_companies"]


def test_a_confined_user_without_the_right_to_view_sees_no_more_than_before(vic: User) -> None:
    vic.user_permissions.clear()
    answer = Client().get("/api/companies", headers=basic_of("vic", "secret")).json()
    assert [each["name"] for each in answer["companies"]] == ["acme"]  # which needs no key


def test_the_confined_add_no_company_and_choose_no_folder(
    client_of_vic: Client, acme: Company, globex: Company
) -> None:
    """Both would say which names and folders others have."""
    page = reverse("admin:tenants_company_add")
    assert client_of_vic.get(page).status_code == client_of_vic.post(page, {"name": "globex"}).status_code == 403
    change = reverse("admin:tenants_company_change", args=[acme.pk])
    assert client_of_vic.post(change, {"active": "on", "image_folder": "globex"}).status_code == 302
    acme.refresh_from_db()
    assert acme.image_folder == ""


def test_an_overlap_from_earlier_names_nobody_to_the_confined(client_of_vic: Client, acme: Company) -> None:
    Company.objects.filter(pk=acme.pk).update(image_folder="globex")
    for page in ("change", "delete"):
        html = client_of_vic.get(reverse(f"admin:tenants_company_{page}", args=[acme.pk])).content.decode()
        assert "overlaps with the image folder of another company" in html, page


def test_the_confined_manage_no_users(client_of_vic: Client, vic: User) -> None:
    for page in ("change", "delete", "history"):
        response = client_of_vic.get(reverse(f"admin:auth_user_{page}", args=[vic.pk]))
        assert response.status_code in (302, 403), page
    form = {"username": "vic", "is_superuser": "on", "is_active": "on"}
    assert client_of_vic.post(reverse("admin:auth_user_change", args=[vic.pk]), form).status_code == 403
    assert client_of_vic.get(reverse("admin:auth_user_add")).status_code == 403
    vic.refresh_from_db()
    assert not vic.is_superuser
    assert client_of_vic.get(reverse("admin:password_change")).status_code == 200


# Who is confined to what ---------------------------------------------------------------------------------------------


def visible_to(user: User) -> set[str]:
    return {company.name for company in Company.objects.visible_to(User.objects.get(pk=user.pk))}


def test_a_company_that_is_deleted_widens_nothing(vic: User, acme: Company) -> None:
    assert visible_to(vic) == {"acme"}
    acme.delete()
    assert visible_to(vic) == set()


def test_a_company_made_anew_under_the_name_is_another(vic: User, acme: Company) -> None:
    acme.delete()
    Company.objects.create(name="acme")
    assert visible_to(vic) == set()


def test_a_superuser_sees_all_whatever_is_listed(vic: User) -> None:
    User.objects.filter(pk=vic.pk).update(is_superuser=True)
    assert visible_to(vic) == {"acme", "globex"}
    assert "globex" in signed_in(User.objects.get(pk=vic.pk)).get("/admin/tenants/company/").content.decode()


def save_user(client: Client, user: User, *, companies: list[Company] | None, **more: str) -> Any:
    """Save the user's page with the companies chosen there; None: with no confinement."""
    kept = Confinement.objects.filter(user=user).first()
    form = {
        "username": user.username,
        "is_active": "on",
        "is_staff": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "user_permissions": [str(each.pk) for each in user.user_permissions.all()],
        "confinement-TOTAL_FORMS": "0" if kept is None and companies is None else "1",
        "confinement-INITIAL_FORMS": "1" if kept else "0",
        "confinement-0-id": str(kept.pk) if kept else "",
        "confinement-0-user": str(user.pk),
        "confinement-0-companies": [str(company.pk) for company in companies or []],
        **({"confinement-0-DELETE": "on"} if companies is None else {}),
        **more,
    }
    return client.post(reverse("admin:auth_user_change", args=[user.pk]), form)


def told_of_confinements() -> list[tuple[str, str, str]]:
    events = AuditEvent.objects.filter(action__contains="confine").order_by("pk")
    return [(event.actor, event.action, event.detail) for event in events]


def test_a_user_is_confined_and_let_go_on_the_users_page_and_the_audit_says_who_did(
    admin_client: Client, acme: Company, globex: Company
) -> None:
    joe = staff("joe")
    for companies, sees in (
        ([acme], {"acme"}),
        ([acme, globex], {"acme", "globex"}),
        ([], set()),
        (None, {"acme", "globex"}),
    ):
        assert save_user(admin_client, joe, companies=companies).status_code == 302
        assert visible_to(joe) == sees
    assert told_of_confinements() == [
        ("ann", "user confined", "joe: acme"),
        ("ann", "confinement changed", "joe: acme, globex, before: acme"),
        ("ann", "confinement changed", "joe: no company, before: acme, globex"),
        ("ann", "confinement lifted", "joe: all companies, before: no company"),
    ]


def test_a_user_is_confined_to_no_company_at_once(admin_client: Client, acme: Company) -> None:
    joe = staff("joe")
    assert save_user(admin_client, joe, companies=[]).status_code == 302
    assert visible_to(joe) == set()


def test_the_audit_hears_nothing_where_nothing_changes(admin_client: Client, acme: Company) -> None:
    joe = staff("joe")
    Confinement.objects.create(user=joe).companies.set([acme])
    assert save_user(admin_client, joe, companies=[acme], first_name="Joe").status_code == 302
    assert told_of_confinements() == []


def test_a_superuser_is_not_confined(admin_client: Client, acme: Company) -> None:
    boss = User.objects.create_superuser("boss")
    page = reverse("admin:auth_user_change", args=[boss.pk])
    html = admin_client.get(page).content.decode().lower()
    assert "confinement to companies" not in html
    joe = staff("joe")
    page = reverse("admin:auth_user_change", args=[joe.pk])
    assert "confinement to companies" in admin_client.get(page).content.decode().lower()
    response = save_user(admin_client, joe, companies=[acme], is_superuser="on")
    assert "A superuser sees all companies" in response.content.decode()
    joe.refresh_from_db()
    assert not joe.is_superuser
    assert not Confinement.objects.exists()


def test_who_may_only_view_users_confines_nobody(colleague: Any, acme: Company) -> None:
    joe = staff("joe")
    assert (
        save_user(colleague("view_user", "add_confinement", "change_confinement"), joe, companies=[acme]).status_code
        == 403
    )
    assert not Confinement.objects.exists()
