"""State_dicts read without torch: as torch reads them, and hostile ones."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.engine.model.state_file import Unfamiliar, read_state
from search.engine.model.weights import BUILTIN_FILE
from tests.support.state_files import ORDERED_DICT, Call, Global, tensor, write

# What is read


def test_a_tensor_is_read_by_its_name(tmp_path: Path) -> None:
    (read,) = read_state(write(tmp_path / "a.pth", {"x": tensor()})).values()
    np.testing.assert_array_equal(read, np.array([[0, 1, 2], [3, 4, 5]], np.float32), strict=True)


def test_a_view_has_the_numbers_that_it_shows(tmp_path: Path) -> None:
    state = {"turned": tensor((3, 2), (1, 3)), "last": tensor((), (), offset=5), "part": tensor((2,), (3,), offset=1)}
    read = read_state(write(tmp_path / "a.pth", state))
    assert {name: array.tolist() for name, array in read.items()} == {
        "turned": [[0, 3], [1, 4], [2, 5]],
        "last": 5,
        "part": [1, 4],
    }


def test_numbers_that_tensors_share_are_read_once(tmp_path: Path) -> None:
    state = {str(number): tensor((10,), (1,), offset=10 * number, length=250_000) for number in range(100)}
    path = write(tmp_path / "a.pth", state, **{"data/0": np.arange(250_000, dtype=np.float32).tobytes()})
    tracemalloc.start()
    read = read_state(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read["99"].tolist() == list(range(990, 1000))
    assert most < 10_000_000


@pytest.mark.slow
@pytest.mark.parametrize("form", ["built-in", "with versions", "channels last", "double"])
def test_it_is_as_torch_reads_it(tmp_path: Path, form: str) -> None:
    from search.engine.model.torch_model import mobilenet_v3_large, torch

    state, path = mobilenet_v3_large(weights=None).state_dict(), tmp_path / "a.pth"
    match form:
        case "built-in":
            path = BUILTIN_FILE
        case "with versions":
            assert state._metadata  # which torch.save keeps
            torch.save(state, path)
        case "channels last":
            for name, value in state.items():
                state[name] = value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
            torch.save(state, path)
        case "double":
            torch.save({name: value.double() for name, value in state.items()}, path)
    expected = torch.load(path, weights_only=True)
    read = read_state(path)
    assert list(read) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value.numpy(), strict=True)


# What is not


@pytest.mark.parametrize(
    "content",
    [
        {"x": tensor((2, 4), (4, 1))},  # beyond the storage
        {"x": tensor(offset=1)},
        {"x": tensor(offset=-1)},
        {"x": tensor((2, 3), (3, -1), offset=2)},
        {"x": tensor((1 << 40, 1 << 40), (0, 0))},  # one number, many times
        {"x": tensor((2, 3), (1, 1))},
        {"x": tensor((0, 3), (3, 1))},
        {"x": tensor((2, 3), (3,))},
        {"x": tensor((1,) * 5, (1,) * 5)},
        {"x": tensor(("2", "3"))},
        {"x": tensor((True, 6), (6, 1))},
        {"x": tensor(length=7)},  # not what is in the entry
        {"x": tensor((1 << 62, 1), length=1 << 63)},
        {"x": tensor(entry="1")},
        {"x": tensor(entry="../data.pkl")},
        {"x": tensor(kind="torch\nComplexFloatStorage")},
        {"x": tensor(kind="os\nFloatStorage")},
        {"x": 3},
        {"x": {"y": tensor()}},
        {3: tensor()},
        (tensor(),),
        tensor(),
        {"x": Call(Global("os\nsystem"), ("true",))},
        {"x": Call(ORDERED_DICT, ((("y", 1),),))},
        {"x": Call("REBUILD", ())},
        b"",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02u.",
        b"\x80\x02h\x05.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",  # a frame of 9 exabytes
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a bytearray of a terabyte
        b"\x80\x02X\xff\xff\xff\x7fx.",
        b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.",
    ],
)
def test_what_is_not_a_dict_of_whole_tensors_is_unfamiliar(tmp_path: Path, content: Any) -> None:
    with pytest.raises(Unfamiliar):
        read_state(write(tmp_path / "a.pth", content))


def test_tensors_that_would_take_more_than_the_file_are_unfamiliar(tmp_path: Path) -> None:
    state = {str(number): tensor((5000,), (1,), length=5000) for number in range(10)}
    with pytest.raises(Unfamiliar, match="together are larger"):
        read_state(write(tmp_path / "a.pth", state, **{"data/0": bytes(20_000)}))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"stored": False}, "compressed"),
        ({"byteorder": b"big"}, "little-endian"),
        ({"x/data.pkl": b"."}, "ValueError"),
        ({"data/0": b"\0" * 23}, "multiple"),
    ],
)
def test_another_archive_is_unfamiliar(tmp_path: Path, how: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfamiliar, match=reason):
        read_state(write(tmp_path / "a.pth", {"x": tensor()}, **how))


def test_a_pickle_without_end_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(Unfamiliar, match="too large"):
        read_state(write(tmp_path / "a.pth", b"\x80\x02" + b"}" * (2 << 20) + b"."))


def test_tuples_in_tuples_take_no_time(tmp_path: Path) -> None:
    nested = b"\x80\x02}X\x01\x00\x00\x00x" + b")" + b"q\x00h\x00\x86" * 5000 + b"s."
    with pytest.raises(Unfamiliar):
        read_state(write(tmp_path / "a.pth", nested))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("whole") / "a.pth", {"x": tensor(), "y": tensor((6,), (1,))}).read_bytes()


@pytest.mark.fuzz
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_unfamiliar_or_has_arrays(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.pth"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else damaged)
    try:
        state = read_state(path)
    except Unfamiliar:
        return
    assert all(array.size <= 6 for array in state.values())


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "a.pth")
