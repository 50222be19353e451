"""Whatever is done in whatever order while models change: every picture is found as it is now, none that is gone."""

import itertools
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from search import queries, runtime
from search.companies import model_change
from search.companies.model_change import NoOtherModel
from search.companies.rollback import roll_back
from search.engine.errors import EngineError
from search.engine.model.weights import find_weights
from search.engine.vectors import Vectors
from search.pictures import delete_image, put_image
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company
from tests.conftest import Colour
from tests.support.fakes import FakeEmbedder

pytestmark = [pytest.mark.django_db, pytest.mark.fuzz]

COLOURS = [
    (red, green, blue) for red, green, blue in itertools.product((0, 85, 170, 255), repeat=3) if red + green + blue
]


class Turned(FakeEmbedder):
    """Its vectors have nothing to do with those of another number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def embed(self, batch: Any) -> Vectors:
        return np.roll(super().embed(batch), 10 * self._number, axis=1)


@pytest.fixture
def weights(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three files of weights, each of which is loaded as a fake of its own."""
    files = [tmp_path / f"weights-{number}.pth" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text(str(number))

    def load(name: str) -> FakeEmbedder:
        found = find_weights(name, hub=tmp_path)
        assert found
        embedder = Turned(int(found.path.read_text()))
        embedder.passport = found.passport
        return embedder

    monkeypatch.setattr(runtime, "_load", load)
    settings.WEIGHTS, settings.KEEP_GENERATIONS, settings.FOLD_SECONDS = str(files[0]), 1, 10**6
    return files


class History:
    """A company, what it should have, and what was done."""

    names = (f"acme-{number}" for number in itertools.count())

    def __init__(self, settings: Any, weights: list[Path]) -> None:
        self.settings, self.weights = settings, weights
        self.pictures: dict[str, Colour] = {}
        self._colours = itertools.cycle(COLOURS)
        self.pk = Company.objects.create(name=next(self.names)).pk
        Company.objects.get(pk=self.pk).image_directory.mkdir()
        settings.WEIGHTS, settings.MODEL_SWITCH = str(weights[0]), "automatic"
        runtime.reset()

    @property
    def company(self) -> Company:
        return Company.objects.get(pk=self.pk)

    def put(self, number: int) -> None:
        path = f"{number}.png"
        self.pictures[path] = next(self._colours)
        put_image(self.company, path, png(self.pictures[path]), by=on_command_line())

    def delete(self, number: int) -> None:
        self.pictures.pop(f"{number}.png", None)
        delete_image(self.company, f"{number}.png", by=on_command_line())

    def build(self, number: int) -> None:
        self.company.queue_build(full=number == 0, allow_empty=True)

    def fold(self, number: int) -> None:
        self.company.queue_build(fold=True)

    def work(self, number: int) -> None:
        while build := self.company.builds.active().first():
            with suppress(EngineError):
                carry_out_build.func(build.pk)

    def configure(self, number: int) -> None:
        self.settings.WEIGHTS = str(self.weights[number % len(self.weights)])
        runtime.reset()

    def choose(self, number: int) -> None:
        self.settings.MODEL_SWITCH = ("automatic", "manual")[number % 2]

    def use(self, number: int) -> None:
        with suppress(NoOtherModel):
            model_change.use_new(self.company, by=on_command_line())

    def back(self, number: int) -> None:
        with suppress(NoOtherModel):
            model_change.step_back(self.company, by=on_command_line())

    def roll_back(self, number: int) -> None:
        with suppress(EngineError):
            roll_back(self.company, cancel_build=True, by=on_command_line())

    def check(self) -> None:
        model_change.stand(self.company)
        for path, colour in self.pictures.items():
            query = queries.QueryPicture(BytesIO(png(colour)), "query.png")
            found = queries.search(self.company, [query], crop=None, top_k=50).matches
            assert {each.image.path for each in found} == set(self.pictures)
            assert (found[0].image.path, found[0].score > 0.9999) == (path, True)


MOST = 40  # histories, each of which takes a third of a second
STEPS = ("put", "delete", "build", "fold", "work", "configure", "choose", "use", "back", "roll_back")


@pytest.mark.slow
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), max_size=30))
@examples(
    max_examples=min(MOST, examples.default.max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_picture_is_found_whatever_happens(
    settings: Any, weights: list[Path], steps: list[tuple[str, int]]
) -> None:
    history = History(settings, weights)
    for step, number in steps:
        getattr(history, step)(number)
        history.check()


def png(colour: Colour) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()
