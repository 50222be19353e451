"""One company whose files are damaged or crafted, among others: only its own searches suffer."""

import logging
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client

from search import runtime
from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import BLUE, RED, FakeEmbedder
from tests.support.indexes import flask_directory, some_vectors

MakeCompany = Callable[..., Company]

NPY = b"\x93NUMPY\x01\x00"
DEEP = b"[" * 100_000
CRAFTED = {
    "unfinished header": ("metadata_offsets.npy", NPY + b"\x40\x00" + b"{'descr': '''" + b" " * 51),
    "header that is no Python": ("id_keys.npy", NPY + b"\x40\x00" + b"{'descr': 10L 10L }" + b" " * 45),
    "header of a huge array": (
        "id_keys.npy",
        NPY + b"\x50\x00" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}".ljust(80),
    ),
    "deep info": ("index_info.json", DEEP),
    "infinite info": ("index_info.json", b'{"total_images": 1e999, "format": 3}'),
    "info of numbers": ("index_info.json", b'{"timestamp": 7, "format": 3}'),
    "deep metadata": ("metadata.json", DEEP),
    "vectors without end": ("faiss_index.bin", b"IxFI" + b"\xff" * 60),
}


def search(company: str) -> Any:
    return Client().post(f"/api/search/{company}", {"image": picture(RED)})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content"), CRAFTED.values(), ids=CRAFTED)
def test_only_the_company_whose_file_is_crafted_suffers(
    make_company: MakeCompany, admin_client: Client, name: str, content: bytes
) -> None:
    for company in ("acme", "globex"):
        make_company(company, {"red.png": RED, "blue.png": BLUE})
    (Company.objects.get(name="acme").embeddings_directory / name).write_bytes(content)
    runtime.reset()
    runtime.use(FakeEmbedder())
    response = search("acme")
    assert (response.status_code, response.json()["success"]) == (503, False)
    assert ".json" in response.json()["error"] or name in response.json()["error"]
    assert str(settings.EMBEDDINGS_DIR) not in response.json()["error"]
    assert search("globex").status_code == 200
    assert "globex" in str(Client().get("/api/companies").json()["companies"])
    assert Client().get("/api/health").status_code == 200
    listed = admin_client.get("/admin/tenants/company/")
    assert listed.status_code == 200
    assert "globex" in listed.content.decode()
    assert admin_client.get(f"/admin/tenants/company/{Company.objects.get(name='acme').pk}/change/").status_code == 200
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 2 companies have a damaged index: acme"):
        call_command("check_index", all=True, stdout=out)
    assert name in out.getvalue()
    assert "globex: ok" in out.getvalue()


@pytest.mark.parametrize("content", [DEEP, b'{"total_images": 1e999}', b'{"timestamp": []}', b'{"weights": "\\ud800"}'])
def test_others_are_adopted_beside_a_directory_that_is_crafted(
    db: None, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("acme", "globex", "initech"):
        flask_directory(settings.EMBEDDINGS_DIR / name, some_vectors(3), ["a.png", "b.png", "c.png"])
    (settings.EMBEDDINGS_DIR / "globex/index_info.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        call_command("adopt_companies")
    assert set(Company.objects.values_list("name", flat=True)) == {"acme", "initech"}
    assert "globex is not adopted: index_info.json cannot be read" in caplog.text
