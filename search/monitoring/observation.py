"""What is noticed of a request while it is answered: for the log, the metrics and Server-Timing alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(slots=True)
class Observation:
    """Belongs to the one thread that does the work."""

    marks: dict[str, str | int]  # what every line of the log carries, such as the request's id
    company: str = ""  # of the request, once it is known to exist
    stages: dict[str, float] = field(default_factory=dict)  # seconds by stage, in the order of their first


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


@contextmanager
def observing(**marks: str | int) -> Iterator[Observation]:
    """Yield what is noticed in the block."""
    observation = Observation(marks)
    token = _current.set(observation)
    try:
        yield observation
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the seconds that the block takes to the stage of this name."""
    observation = _current.get()
    if observation is None:
        yield
        return
    began = perf_counter()
    try:
        yield
    finally:
        observation.stages[name] = observation.stages.get(name, 0.0) + perf_counter() - began


def note_company(name: str) -> None:
    """Say whom the request is about. name: of a company that exists, because metrics are kept by it."""
    if observation := _current.get():
        observation.company = name


def marks() -> dict[str, str | int]:
    """Return what a line of the log is to carry here."""
    observation = _current.get()
    return observation.marks if observation else {}
