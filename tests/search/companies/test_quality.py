"""How well a company's index finds, measured by every build: in its row, in the index and on the company's page."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from django.core.management import call_command
from django.test import Client
from PIL import Image

from search import publication, queries, runtime
from search.companies.rollback import roll_back
from search.engine.model.passport import ModelPassport
from search.engine.model.transform import Pixels
from search.pictures import put_image
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild
from tests.conftest import paint, picture
from tests.support.admin import text, url
from tests.support.fakes import FakeEmbedder

MakeCompany = Callable[..., Company]

REDS = {"red/a.png": (255, 0, 0), "red/b.png": (250, 0, 0)}
BLUES = {"blue/a.png": (0, 0, 255), "blue/b.png": (0, 0, 250)}


class DarkEmbedder(FakeEmbedder):
    """Sees of a picture only how dark it is: other weights."""

    def __init__(self) -> None:
        super().__init__("e" * 64)
        self.passport = ModelPassport("dark-weights", "e" * 64)

    def prepare(self, image: Image.Image) -> Pixels:
        darkness = np.asarray(image, dtype=np.float32).sum(axis=2).mean()
        return np.array([darkness, 255, 0], np.float32) / 255


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", REDS | BLUES)


def measured(build: IndexBuild) -> tuple[int | None, int | None]:
    return build.neighbours_tried, build.neighbours_own


def of_index(company: Company) -> tuple[int, int]:
    found = queries.company_info(Company.objects.get(pk=company.pk)).neighbours
    assert found
    return found.tried, found.own


def last_build(company: Company) -> IndexBuild:
    return company.builds.all()[0]


def test_a_build_keeps_how_often_the_nearest_picture_lies_in_the_same_folder(acme: Company) -> None:
    assert measured(last_build(acme)) == (4, 4)
    card = json.loads((publication.index_directory(Company.objects.get()) / "index_info.json").read_text())
    assert card["neighbours"] == {"tried": 4, "own": 4, "folders": {"blue": [2, 2], "red": [2, 2]}}


def test_an_incremental_build_measures_the_whole_index_anew(acme: Company) -> None:
    paint(acme.image_directory / "blue/c.png", (255, 60, 0))
    call_command("build_embeddings", company="acme")
    assert last_build(acme).images_embedded == 1
    assert measured(last_build(acme)) == of_index(acme) == (5, 4)


def test_a_build_that_changes_nothing_says_what_the_index_says(acme: Company) -> None:
    call_command("build_embeddings", company="acme")
    assert acme.builds.count() == 2
    assert measured(last_build(acme)) == (4, 4)


def test_a_fold_measures_the_live_pictures_with_the_others(acme: Company) -> None:
    put_image(Company.objects.get(), "blue/c.png", picture((255, 60, 0)).getvalue(), by=on_command_line())
    carry_out_build.func(acme.queue_build(fold=True).pk)
    assert measured(last_build(acme)) == of_index(acme) == (5, 4)


def test_a_rollback_brings_the_earlier_index_and_what_was_measured_of_it(acme: Company) -> None:
    first = Company.objects.get().generation
    paint(acme.image_directory / "blue/c.png", (255, 60, 0))
    call_command("build_embeddings", company="acme")
    roll_back(Company.objects.get(), first, by=on_command_line())
    assert of_index(acme) == (4, 4)


def test_pictures_of_one_folder_are_not_measured(make_company: MakeCompany, admin_client: Client) -> None:
    globex = make_company("globex", REDS)
    assert measured(last_build(globex)) == (None, None)
    assert "Not measured for this index" in section(admin_client, globex)


def section(client: Client, company: Company) -> str:
    page = client.get(url("change", company)).content.decode()
    found = re.search(r"<h2>How well it finds</h2>(.*?)</section>", page, re.DOTALL)
    assert found
    return text(found[1])


def test_the_page_shows_it_by_build_with_the_weights_and_by_folder(acme: Company, admin_client: Client) -> None:
    paint(acme.image_directory / "blue/c.png", (255, 60, 0))
    call_command("build_embeddings", company="acme")
    page = section(admin_client, acme)
    assert "Meaningful where folders are categories" in page
    assert "In the same folder 80 % Pictures tried 5 Weights fake-weights" in page
    assert re.search(r"80 % 5 fake-weights .* 100 % 4 fake-weights", page)
    assert page.endswith("By folder, the worst first Folder In the same folder Pictures tried blue 67 % 3 red 100 % 2")


def test_a_change_of_weights_shows(acme: Company, admin_client: Client) -> None:
    runtime.use(DarkEmbedder())
    call_command("build_embeddings", company="acme")
    page = section(admin_client, acme)
    assert re.search(r"0 % 4 dark-weights .* 100 % 4 fake-weights", page)
