"""What somebody meets who comes to the wrong page."""

from django.test import Client
from django.urls import reverse


def test_a_page_that_is_not_there_shows_ways_back(client: Client, db: None) -> None:
    response = client.get("/no/such/page<script>")
    page = response.content.decode()
    assert response.status_code == 404
    for way in ("/", reverse("docs"), reverse("admin:index")):
        assert f'href="{way}"' in page
    assert "/no/such/page&lt;script&gt;" in page


def test_browsers_find_an_icon(client: Client) -> None:
    response = client.get("/favicon.ico", follow=True)
    assert response.status_code == 200
    assert response["Content-Type"] == "image/svg+xml"


def test_the_api_is_found_with_and_without_a_slash(client: Client, db: None) -> None:
    for path in ("/api/docs", "/api/docs/", "/api/schema", "/api/schema/"):
        assert client.get(path).status_code == 200
