"""What people see of and do about the models that companies are searched with, in the words of pages and commands."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from search import publication
from search.companies import model_change
from search.companies.model_change import Comparison, Stand
from search.engine.errors import EngineError
from tenants import audit
from tenants.models import Company, IndexBuild


class State(StrEnum):
    """How a company stands with the configured model, in a few words."""

    NO_INDEX = "no index yet"
    DAMAGED = "index damaged"
    WEIGHTS_MISSING = "weights missing"
    WAITING = "new model waits"
    OWN = "keeps its own model"
    OTHER = "another model"
    UNKNOWN = "not recorded"
    CURRENT = "up to date"


@dataclass(frozen=True, slots=True)
class Standing:
    """A company, and where it stands between two models."""

    company: Company
    stand: Stand | None  # None: its index cannot be read
    problem: str = ""  # why not, or why it cannot be searched

    @property
    def state(self) -> State:
        stand = self.stand
        if stand is None:
            return State.DAMAGED
        if stand.used is None:
            return State.UNKNOWN if publication.is_listed(self.company) else State.NO_INDEX
        if stand.missing:
            return State.WEIGHTS_MISSING
        if stand.candidate is not None:
            return State.WAITING
        if stand.keeps_own:
            return State.OWN
        return State.CURRENT if stand.is_current else State.OTHER


def standing(company: Company) -> Standing:
    """Return where the company stands. company: freshly read from the database."""
    try:
        stand = model_change.stand(company)
    except EngineError as error:
        return Standing(company, None, str(error))
    return Standing(company, stand, stand.missing)


@dataclass(frozen=True, slots=True)
class Action:
    """Something that people have workers do for one company, or for all to which it applies."""

    name: str  # in addresses and options
    label: str
    applies: Callable[[Standing], bool]
    queue: Callable[..., IndexBuild]  # queue(company, by=actor); raises NoOtherModel
    says: str  # what the build does

    def carry_out(self, company: Company, *, by: audit.Actor) -> str:
        """Do it and say so in a sentence. Raises NoOtherModel."""
        return f"Build {self.queue(company, by=by).pk} of {company} is queued: {self.says}."


def _is_to_be_rebuilt(standing: Standing) -> bool:
    stand = standing.stand
    return bool(stand and stand.used and not stand.is_current and not stand.has_new)


REBUILD = Action(
    "rebuild",
    "Rebuild with the new model",
    _is_to_be_rebuilt,
    Company.queue_build,
    "it makes an index with the new model",
)
USE = Action(
    "use",
    "Use the new model",
    lambda standing: bool(standing.stand and standing.stand.has_new),
    model_change.use_new,
    "searches use the new model after it",
)
BACK = Action(
    "back",
    "Go back to the model before",
    lambda standing: bool(standing.stand and standing.stand.before),
    model_change.step_back,
    "searches use the model before after it",
)
ACTIONS = (REBUILD, USE, BACK)


def for_all(action: Action, standings: Iterable[Standing]) -> list[Standing]:
    """Return those that an action for all is for: not those that somebody took back to a model of their own."""
    return [each for each in standings if action.applies(each) and each.stand and not each.stand.keeps_own]


def comparison(compared: Comparison | None) -> list[str]:
    """Return in sentences what changes with a candidate; none where nothing could be compared."""
    told = []
    if compared and compared.overlap is not None:
        told.append(f"{100 * compared.overlap:.0f} % of the first ten results stay the same.")
    if compared and compared.neighbours is not None and compared.neighbours_before is not None:
        before, after = compared.neighbours_before, compared.neighbours
        told.append(f"Nearest picture in the same folder: {before:.0f} % today, {after:.0f} % with the new model.")
    return told
