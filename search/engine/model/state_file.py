"""A state_dict as torch.save writes it, read without torch, which takes seconds.

Nothing in the file is called, and no length or type that it tells is believed. What is not as expected is Unfamiliar:
torch may know it.
"""

import math
import pickletools
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAX_PICKLE_BYTES = 1 << 20  # a state_dict of this model has 35 kB
_MAX_AXES = 4
_TYPES = {"HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8", "LongStorage": "<i8"}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"
_MARK = object()


class Unfamiliar(Exception):
    """A file that is not a zip of plain tensors, each in a place of its own. Says why."""


class _Global(NamedTuple):
    """A class or a function as the pickle names it, "module name". It is never imported."""

    name: str


class _Storage(NamedTuple):
    """Numbers in an entry of the zip."""

    entry: str
    type: str  # NumPy's
    length: int

    def count_bytes(self) -> int:
        return self.length * np.dtype(self.type).itemsize


class _Tensor(NamedTuple):
    """Where in a storage a tensor's numbers are; offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def count_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.storage.type).itemsize


class _Archive:
    """The entries, which lie uncompressed below one folder; none is larger than the file."""

    def __init__(self, file: zipfile.ZipFile, *, size: int) -> None:
        self.size = size
        self._file = file
        (pickled,) = (name for name in file.namelist() if name.endswith("/data.pkl"))
        self._folder = pickled.removesuffix("data.pkl")

    def read(self, entry: str, *, limit: int) -> bytes:
        info = self._file.getinfo(self._folder + entry)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
            raise Unfamiliar(f"{entry} is compressed or too large")
        return self._file.read(info)

    def is_little_endian(self) -> bool:
        """Tell the order of bytes; files from before it was noted are of machines like this one."""
        noted = f"{self._folder}byteorder" in self._file.namelist()
        return not noted or self.read("byteorder", limit=16) == b"little"


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state_dict by name, in the types they are stored in. Raises Unfamiliar and OSError."""
    try:
        with zipfile.ZipFile(path) as file:
            return _read(_Archive(file, size=path.stat().st_size))
    except (Unfamiliar, OSError):
        raise
    except Exception as error:  # what zipfile, pickletools and this module's own steps meet in a damaged file
        raise Unfamiliar(f"{type(error).__name__}: {error}") from error


def _read(archive: _Archive) -> dict[str, np.ndarray]:
    if not archive.is_little_endian():
        raise Unfamiliar("its numbers are not little-endian")
    state = _unpickled(archive.read("data.pkl", limit=_MAX_PICKLE_BYTES))
    if not isinstance(state, dict) or not all(isinstance(value, _Tensor) for value in state.values()):
        raise Unfamiliar("it is not a dict of tensors")
    if sum(tensor.count_bytes() for tensor in state.values()) > archive.size:
        raise Unfamiliar("its tensors together are larger than the file")
    numbers = _numbers(archive, {tensor.storage for tensor in state.values()})
    return {name: _array(numbers[tensor.storage], tensor) for name, tensor in state.items()}


def _numbers(archive: _Archive, storages: set[_Storage]) -> dict[_Storage, np.ndarray]:
    """Return what is in the storages, each read once, however many tensors share it."""
    if sum(storage.count_bytes() for storage in storages) > archive.size:
        raise Unfamiliar("its storages together are larger than the file")
    numbers = {}
    for storage in storages:
        numbers[storage] = np.frombuffer(archive.read(f"data/{storage.entry}", limit=archive.size), storage.type)
        if len(numbers[storage]) != storage.length:
            raise Unfamiliar(f"data/{storage.entry} is not as long as it should be")
    return numbers


def _array(numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)


def _unpickled(pickled: bytes) -> Any:
    """Return the object of a pickle of the few opcodes that a state_dict takes."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(argument)
            case "GLOBAL":
                stack.append(_Global(str(argument)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(_pop_to_mark(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(opcode.name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "SETITEM":
                item = [stack.pop(), stack.pop()]
                _put(stack[-1], item[::-1])
            case "SETITEMS":
                items = _pop_to_mark(stack)
                _put(stack[-1], items)
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            case "BUILD":  # of an OrderedDict: the versions of the layers
                stack.pop()
            case "STOP":
                return stack.pop()
            case other:
                raise Unfamiliar(f"its pickle has a {other}")
    raise Unfamiliar("its pickle has no end")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    popped = []
    while (value := stack.pop()) is not _MARK:
        popped.append(value)
    return popped[::-1]


def _put(target: Any, items: list[Any]) -> None:
    """Put names and values, in turns, into a dict."""
    names = items[::2]
    if not isinstance(target, dict) or not all(isinstance(name, str) for name in names):
        raise Unfamiliar("its pickle is not of dicts with names")
    target.update(zip(names, items[1::2], strict=True))


def _storage(reference: Any) -> _Storage:
    match reference:
        case ("storage", _Global(kind), str(entry), str(), int(length)) if kind.removeprefix("torch ") in _TYPES:
            return _Storage(entry, _TYPES[kind.removeprefix("torch ")], length)
    raise Unfamiliar("it has numbers of another type")


def _made(maker: Any, arguments: Any) -> Any:
    """Return what a call of the pickle makes; there are two that it may."""
    match maker, arguments:
        case _Global(name), () if name == _ORDERED_DICT:
            return {}
        case (
            _Global(name),
            (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
        ) if name == _REBUILD:
            _require_own_numbers(storage, offset, shape, strides)
            return _Tensor(storage, offset, shape, strides)
    raise Unfamiliar("it holds other things than tensors")


def _require_own_numbers(storage: _Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> None:
    """Raise Unfamiliar unless every number of the tensor has its own place in the storage."""
    told = chain((storage.length, offset), shape, strides)
    if len(shape) > _MAX_AXES or not all(type(number) is int and number >= 0 for number in told) or 0 in shape:
        raise Unfamiliar("a tensor has no proper shape")
    last = 0  # place, of the axes so far
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride <= last:
            raise Unfamiliar("a tensor has numbers in one place")
        last += (size - 1) * stride
    if offset + last >= storage.length:
        raise Unfamiliar("a tensor is larger than its storage")
