"""Large pictures of requests are decoded one at a time; ordinary ones never wait for them."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from search.engine.errors import DecoderBusy
from search.engine.pictures.gates import ORDINARY_PIXELS, Lanes
from tests.support.waiting import eventually

LARGE = ORDINARY_PIXELS + 1
LIMIT = 10**8
SECONDS = 20


def lanes_of_a_process(folder: Path) -> Lanes:
    return Lanes(FileLock(folder / "lock", thread_local=False))


@pytest.fixture
def lanes(tmp_path: Path) -> Lanes:
    return lanes_of_a_process(tmp_path)


def through(lanes: Lanes, pixels: int) -> None:
    with lanes.pass_through(pixels=pixels, decoded=pixels, limit=LIMIT):
        pass


def refused(futures: list[Future[None]]) -> list[Future[None]]:
    return [future for future in futures if future.done() and isinstance(future.exception(), DecoderBusy)]


def test_of_large_pictures_one_is_read_one_waits_and_ordinary_ones_pass(lanes: Lanes) -> None:
    with ThreadPoolExecutor(3) as threads:
        with lanes.pass_through(pixels=LARGE, decoded=LARGE, limit=LIMIT):
            others = [threads.submit(through, lanes, LARGE) for _ in range(3)]
            eventually(lambda: len(refused(others)) == 2, "two are refused")
            (waiting,) = set(others) - set(refused(others))
            through(lanes, ORDINARY_PIXELS)
            assert not waiting.done()
        assert waiting.result(SECONDS) is None
    through(lanes, LARGE)


def test_a_large_jpeg_that_is_scaled_down_is_still_a_large_one(lanes: Lanes) -> None:
    with ThreadPoolExecutor(2) as threads, lanes.pass_through(pixels=LARGE, decoded=1, limit=LIMIT):
        others = [threads.submit(through, lanes, LARGE) for _ in range(2)]
        eventually(lambda: len(refused(others)) == 1, "one is refused")


def test_one_large_picture_is_read_at_a_time_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.engine.pictures.gates._LARGE_SECONDS", 0.01)
    one, other = lanes_of_a_process(tmp_path), lanes_of_a_process(tmp_path)
    with one.pass_through(pixels=LARGE, decoded=LARGE, limit=LIMIT):
        with pytest.raises(DecoderBusy), other.pass_through(pixels=LARGE, decoded=LARGE, limit=LIMIT):
            pass
        through(other, ORDINARY_PIXELS)
    through(other, LARGE)


def test_a_picture_that_fails_gives_its_place_back(lanes: Lanes) -> None:
    for pixels in (LARGE, ORDINARY_PIXELS) * 3:
        with pytest.raises(ValueError, match="broken"), lanes.pass_through(pixels=pixels, decoded=pixels, limit=LIMIT):
            raise ValueError("broken")
    through(lanes, LARGE)
    through(lanes, ORDINARY_PIXELS)


def test_without_a_folder_for_the_lock_a_process_keeps_its_own_order() -> None:
    lanes = Lanes(None)
    with ExitStack() as inside:
        inside.enter_context(lanes.pass_through(pixels=LARGE, decoded=LARGE, limit=LIMIT))
        through(lanes, ORDINARY_PIXELS)
