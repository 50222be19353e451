"""How likely each result is the picture searched with, and whether anything is similar at all."""

import json
import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.test import Client
from PIL import Image

from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.match_fit import MatchFit
from search.engine.index.records import ImageRecord, ListRecords
from search.engine.index.vector_file import VectorsInMemory
from search.pictures import delete_image, put_image
from search.queries import Filters, QueryPicture, find_similar
from tenants.audit import on_command_line
from tenants.models import Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, RED, FakeEmbedder
from tests.support.indexes import write_sums_anew

MakeCompany = Callable[..., Company]

COLOURS = {  # alike, but no two show the same
    "A/red.png": RED,
    "A/orange.png": (255, 100, 0),
    "A/pink.png": (255, 0, 100),
    "B/rose.png": (255, 90, 90),
    "B/brown.png": (180, 110, 0),
    "B/plum.png": (180, 0, 110),
    "B/dusk.png": (180, 100, 100),
    "B/dark.png": (60, 40, 40),
}
NEARLY_RED = (250, 15, 10)


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", COLOURS)


def search(client: Client, *colours: tuple[int, int, int], **form: Any) -> dict[str, Any]:
    response = client.post("/api/search/acme", {"image": [picture(colour) for colour in colours], **form})
    assert response.status_code == 200, response.content
    return dict(response.json())


def by_name(answer: dict[str, Any]) -> dict[str, float]:
    return {entry["name"]: entry["match"] for entry in answer["results"]}


def usual_match(score: float, background: float) -> float:
    """Return what fewer than thirty pictures give."""
    odds = 6.5 * math.log((1 - background + 0.002) / (1 - score + 0.002)) - 3.1
    return round(100 / (1 + math.exp(-odds)), 1)


def test_each_result_tells_how_likely_it_is_the_picture_searched_with(client: Client, acme: Company) -> None:
    results = search(client, NEARLY_RED)["results"]
    assert results[0]["name"] == "red"
    assert results[0]["match"] > 98 > results[1]["match"] > results[4]["match"] == 4.3
    fifth = results[4]["score"]
    assert [entry["match"] for entry in results] == [usual_match(entry["score"], fifth) for entry in results]


@pytest.mark.parametrize("form", [{"top_k": 1}, {"top_k": 50}, {"location": "A"}, {"min_score": 0.9}, {"top_k": 3}])
def test_a_match_is_the_same_whatever_part_of_the_results_is_wanted(
    client: Client, acme: Company, form: dict[str, Any]
) -> None:
    every = by_name(search(client, NEARLY_RED))
    some = by_name(search(client, NEARLY_RED, **form))
    assert some["red"] == every["red"]
    assert some.items() <= every.items()
    assert len(some) < len(every) or form == {"top_k": 50}


def test_copies_of_the_first_result_are_no_background(client: Client, acme: Company) -> None:
    alone = by_name(search(client, NEARLY_RED, top_k=1))["red"]
    for number in range(12):
        paint(acme.image_directory / f"copies/{number}.png", RED)
    call_command("build_embeddings", company="acme")
    answer = search(client, NEARLY_RED, top_k=13)
    assert {entry["match"] for entry in answer["results"]} == {alone}
    assert by_name(search(client, NEARLY_RED, top_k=1)).popitem()[1] == alone


def test_min_match_leaves_out_what_matches_less(client: Client, acme: Company) -> None:
    every = by_name(search(client, NEARLY_RED))
    least = sorted(every.values())[-3]
    answer = search(client, NEARLY_RED, min_match=least)
    assert by_name(answer) == {name: match for name, match in every.items() if match >= least}
    assert "ignored_parameters" not in answer
    assert search(client, BLUE, min_match=99)["results"] == []
    assert len(search(client, NEARLY_RED, min_match=0)["results"]) == len(COLOURS)


@pytest.mark.parametrize("least", ["-0.1", "100.5", "nan", "inf", "half", ""])
def test_min_match_that_is_no_percentage_is_a_400(client: Client, acme: Company, least: str) -> None:
    response = client.post("/api/search/acme", {"image": picture(RED), "min_match": least})
    assert response.status_code == 400
    assert response.json()["error"] == "min_match must be a number from 0 to 100"


def test_several_pictures_have_no_match_and_min_match_has_no_effect(client: Client, acme: Company) -> None:
    answer = search(client, RED, BLUE, min_match=99)
    assert len(answer["results"]) == len(COLOURS)
    assert not any("match" in entry for entry in answer["results"])
    assert "nothing_similar" not in answer
    assert answer["ignored_parameters"] == ["min_match"]


def test_a_search_by_id_has_no_match_and_min_match_has_no_effect(client: Client, acme: Company) -> None:
    image_id = search(client, RED, top_k=1)["results"][0]["id"]
    for response in (
        client.get(f"/api/search/acme/{image_id}", {"min_match": 99, "unknown": 1}),
        client.get("/api/search/acme", {"like": image_id, "min_match": 99, "unknown": 1}),
    ):
        answer = response.json()
        assert len(answer["results"]) == len(COLOURS) - 1
        assert not any("match" in entry for entry in answer["results"])
        assert answer["ignored_parameters"] == ["min_match", "unknown"]


def test_a_company_of_five_pictures_has_no_match(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", dict(list(COLOURS.items())[:5]))
    answer = search(client, RED, min_match=50)
    assert len(answer["results"]) == 5
    assert not any("match" in entry for entry in answer["results"])
    assert answer["ignored_parameters"] == ["min_match"]


def test_an_index_without_a_fit_answers_without_a_match(client: Client, acme: Company) -> None:
    path = acme.embeddings_directory / "index_info.json"
    entries = json.loads(path.read_text())
    del entries["match"]
    path.write_text(json.dumps(entries))
    write_sums_anew(acme.embeddings_directory.resolve())
    answer = search(client, RED)
    assert len(answer["results"]) == len(COLOURS)
    assert not any("match" in entry for entry in answer["results"])


def test_a_part_of_a_picture_has_a_match(client: Client, acme: Company) -> None:
    large = BytesIO()
    Image.new("RGB", (64, 64), RED).save(large, "PNG")
    large.seek(0)
    large.name = "large.png"
    response = client.post("/api/search/acme", {"image": large, "crop": "0.1,0.1,0.5,0.5"})
    assert response.json()["results"][0]["match"] > 95


def test_live_changes_count_for_the_background(client: Client, acme: Company) -> None:
    before = by_name(search(client, NEARLY_RED, top_k=1))["red"]
    for number, green in enumerate((60, 62, 64, 66)):
        put_image(acme, f"new/{number}.png", picture((250, green, 10)).getvalue(), by=on_command_line())
    assert by_name(search(client, NEARLY_RED, top_k=1))["red"] < before
    for path in list(COLOURS)[1:]:
        delete_image(acme, path, by=on_command_line())
    assert "match" not in search(client, NEARLY_RED)["results"][0]  # five pictures are left


@pytest.mark.slow
def test_what_scores_lower_than_neighbours_do_is_said_to_be_like_nothing(
    client: Client, make_company: MakeCompany
) -> None:
    greens = {f"{number:03}.png": (10 * (number % 10), 255, 20 * (number // 10)) for number in range(100)}
    acme = make_company("acme", greens)
    assert search(client, (55, 255, 55))["nothing_similar"] is False
    assert search(client, (55, 255, 55), location="nowhere", min_score=1)["nothing_similar"] is False
    stranger = search(client, RED, top_k=3)
    assert stranger["nothing_similar"] is True
    assert len(stranger["results"]) == 3
    delete_image(acme, "000.png", by=on_command_line())
    assert "nothing_similar" not in search(client, RED)


def index_of_greens(count: int, *, fitted_with: int) -> ImageIndex:
    """Return an index of pictures that are alike, of which hardly any has a neighbour that scores below 0.9."""
    colours = [np.float32([number % 10 / 20, 1, number // 10 / 20]) for number in range(count)]
    fit = MatchFit(6.5, -3.1, fitted_with, 60, 0.05, background=0.95, nearest_low=0.9, nearest_median=0.98)
    records = ListRecords([ImageRecord(f"{number}.png", str(number)) for number in range(count)])
    return ImageIndex(IndexInfo(count, match=fit), records, VectorsInMemory(FakeEmbedder().embed(colours)))


@pytest.mark.parametrize(
    ("count", "fitted_with", "expected"), [(100, 100, True), (99, 100, None), (100, 99, None), (120, 200, True)]
)
def test_a_hundred_pictures_can_tell_that_nothing_is_similar(
    embedder: FakeEmbedder, count: int, fitted_with: int, expected: bool | None
) -> None:
    index = index_of_greens(count, fitted_with=fitted_with)
    found = find_similar(index, [QueryPicture(picture(RED), "red.png")])
    assert (len(found.matches), found.nothing_similar) == (10, expected)
    nothing_left = Filters(location="nowhere", min_score=1)
    assert (
        find_similar(index, [QueryPicture(picture(RED), "red.png")], filters=nothing_left).nothing_similar == expected
    )
    green = find_similar(index, [QueryPicture(picture((60, 255, 60)), "green.png")])
    assert green.nothing_similar is (None if expected is None else False)
