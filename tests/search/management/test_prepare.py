"""What `make run` does before it starts the servers."""

from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client

from tenants.models import Company
from tests.support.fakes import FakeEmbedder

pytestmark = pytest.mark.slow  # hundreds of pictures are drawn


@pytest.fixture
def said(db: None, embedder: FakeEmbedder) -> str:
    """Prepare a fresh checkout; return what is printed."""
    out = StringIO()
    call_command("prepare", stdout=out)
    return out.getvalue()


def test_the_first_start_leads_a_newcomer_to_a_page_that_finds(said: str, client: Client) -> None:
    addresses = [word for word in said.split() if word.startswith("http://")]
    assert addresses[0].endswith(":5000/")
    page = client.get("/").content.decode()
    assert 'href="/search/demo/"' in page
    demo = Company.objects.get()
    assert demo.public_page
    Company.objects.update(public_page=False)
    call_command("prepare", stdout=StringIO())
    demo.refresh_from_db()
    assert not demo.public_page  # its owner has decided otherwise
