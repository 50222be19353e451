"""Which index serves a company: Company.generation says so, and nobody else writes that column.

    NULL    nothing has been published for this row: embeddings/<name> decides, a link of ours, a plain directory as
            the Flask service left it, or nothing
    text    exactly that generation, whatever the link says; the link follows, for people and readers of the Flask
            layout

A generation that another model made than the one that serves is a candidate first: Company.candidate names it, searches
know nothing of it, and nothing but use_candidate() has it serve. Company.model_before is the model that served before
the last change of model; of its generations the newest stays.

A generation is complete on the disk before the row names it, and the row moves by compare-and-set. Where the row's
generation is gone from the disk, the newest one takes its place that holds all changes which are gone from the
database. Searches find that out for themselves and write nothing; a worker writes it to the row.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q, Value
from django.db.models.functions import Greatest

from search import belongings, collections, replica, runtime, stores
from search.engine import storage
from search.engine.errors import (
    EngineError,
    IndexCorrupt,
    IndexNotBuilt,
    IndexUnusable,
    PublishRefused,
    StoreError,
    StoreUnavailable,
)
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.model.passport import ModelPassport
from search.engine.objects import ObjectStore
from search.engine.storage import remote
from tenants.models import NAME_PATTERN, Company, IndexBuild, LiveChangeQuerySet

logger = logging.getLogger(__name__)

# The columns that are read together.
STATE = ["generation", "live_sequence", "live_floor", "candidate", "own_model", "model_before", "engine"]

_HELD_SECONDS = 60.0

_REPAIR_WAITS = 5.0  # seconds for a publication that is under way

# After so long every machine has the generation that was published then, or its searches wait for it.
_MACHINES_LAG = timedelta(minutes=5)
_GRACE = timedelta(days=1)  # in which whoever has uploaded something has published it, too

Confirm = Callable[[], AbstractContextManager[object]]
Beat = Callable[[], None]


def _no_beat() -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Held:
    """The last live change that the generations in the store held, when they were asked."""

    serving: str | None
    asked_at: float
    changes: int


_held_in_store: dict[int, _Held] = {}  # by the company's key; whoever finds it old replaces it


# Reading ------------------------------------------------------------------------------------------------------------


def built_index(company: Company) -> ImageIndex:
    """Return the index that serves the company, without live changes, loaded once for all threads.

    company: freshly read from the database; it is read again where its generation is not in memory, so that what was
    published or pruned meanwhile does no harm. Raises IndexNotBuilt and IndexCorrupt.
    """
    if company.generation is not None:
        index = _find_undamaged(company, _version(company, company.generation))
        if index is not None and index.info.holds_changes_to >= company.live_floor:
            return index
    company.refresh_from_db(fields=STATE)
    while True:
        try:
            return _newest_index(company)
        except IndexUnusable:
            if not _has_moved_on(company):
                raise


def _newest_index(company: Company) -> ImageIndex:
    if company.generation is None:
        return _linked_index(company)
    if collections.serve(company):
        return _index_in_milvus(company, company.generation)
    return _index_of_copy(company, company.generation) if settings.STORE else _published_index(company)


def _has_moved_on(company: Company) -> bool:
    """Read the row again and tell whether another generation serves by now: the one before may have been pruned."""
    before = company.generation, company.engine
    if company.generation is None:
        return False
    company.refresh_from_db(fields=STATE)
    return (company.generation, company.engine) != before


def _version(company: Company, generation: str) -> str:
    """Return what stands for a generation among the loaded indexes: for one in Milvus another text than for files."""
    return f"milvus {generation}" if collections.serve(company) else generation


def _find_undamaged(company: Company, version: str) -> ImageIndex | None:
    """Return the index if it is in memory in this version; one that was found damaged since is to be loaded again.

    That fails until its files are whole again, in this process and all others of the machine.
    """
    index = runtime.index_cache().find(company.pk, version)
    if index is not None and runtime.verifier().is_damaged(index):
        runtime.index_cache().forget(company.pk, index)
        return None
    return index


def _load(directory: Path) -> ImageIndex:
    runtime.verifier().require_undamaged(directory)
    index = storage.load(directory)
    runtime.verifier().verify_later(directory, index)
    return index


def _linked_index(company: Company) -> ImageIndex:
    directory = company.embeddings_directory
    version, cache = storage.version(directory), runtime.index_cache()
    index = _find_undamaged(company, version)
    if index is None:
        index = cache.get(company.pk, version, lambda: _load(directory), or_earlier=True)
    return index


def _published_index(company: Company) -> ImageIndex:
    directory, cache = index_directory(company), runtime.index_cache()
    index = _find_undamaged(company, directory.name)
    if index is None:
        if directory.name != company.generation:
            logger.warning(
                "The index %s of %s is gone from the disk; %s takes its place",
                company.generation,
                company,
                directory.name,
            )
        index = cache.get(company.pk, directory.name, lambda: _load(directory))
    return _above_floor(company, index, directory.name)


def _index_in_milvus(company: Company, published: str) -> ImageIndex:
    """Return the index whose pictures lie in Milvus; of its files only what it says of itself is read."""
    name = _serving(company, published)
    index = _find_undamaged(company, _version(company, name))
    if index is None:
        open_index = partial(collections.open_index, company, name, _info_of(company, name))
        index = runtime.index_cache().get(company.pk, _version(company, name), open_index)
    return _above_floor(company, index, name)


def index_of_files(company: Company) -> ImageIndex:
    """Return the same as built_index(), for workers, who read all of it: from the files, whatever searches the company.

    Never an earlier one, from which what they publish would lack pictures. Raises IndexNotBuilt, IndexCorrupt and
    StoreUnavailable.
    """
    if not (settings.STORE or collections.serve(company)):
        return built_index(company)
    files = index_files(company)
    return _above_floor(company, storage.load(files), files.name)


def _above_floor(company: Company, index: ImageIndex, name: str) -> ImageIndex:
    """Return the index. Raises IndexCorrupt where it would lose changes in silence."""
    if index.info.holds_changes_to < company.live_floor:
        raise IndexCorrupt(
            f"The index {name} is older than changes that are gone from the database: "
            f"run manage.py build_embeddings --company {company}"
        )
    return index


def _index_of_copy(company: Company, name: str) -> ImageIndex:
    """Return the index that lies in the store, loaded from this machine's copy.

    While the copy is on its way, or cannot be had, the newest index at hand answers that lacks no change which is gone
    from the database; without one, the caller waits. Raises IndexOnItsWay as well, StoreUnavailable and NotEnoughSpace.
    """
    index = _find_undamaged(company, name)
    if index is None:
        try:
            replica.at_hand(company, name, wait_seconds=0)
        except EngineError:
            if (earlier := _earlier_at_hand(company, name)) is not None:
                return earlier
        try:
            index = _load_copy(company, name)
        except IndexNotBuilt:
            lost, name = name, _stand_in(company)
            logger.warning("The index %s of %s is gone from the store; %s takes its place", lost, company, name)
            index = _load_copy(company, name)
    return _above_floor(company, index, name)


def _load_copy(company: Company, name: str) -> ImageIndex:
    """Return the index of a generation in the store; a copy that is damaged is fetched again, once."""
    while True:
        directory = replica.at_hand(company, name, wait_seconds=replica.REQUEST_SECONDS)
        try:
            index = runtime.index_cache().get(company.pk, name, partial(_load, directory))
        except IndexUnusable as error:
            replica.throw_away(company, name, error)
        else:
            replica.note_serving(company, name)
            return index


def _earlier_at_hand(company: Company, name: str) -> ImageIndex | None:
    """Return the index that this process has loaded, or else the last one that has served of which a copy is here.

    None where there is none that lacks no change which is gone from the database.
    """
    cache, floor = runtime.index_cache(), company.live_floor
    loaded = cache.find_any(company.pk)
    if loaded and loaded.info.holds_changes_to >= floor and not runtime.verifier().is_damaged(loaded):
        return loaded
    for earlier in replica.served(company):
        directory = storage.generation_directory(company.embeddings_directory, earlier)
        with suppress(IndexUnusable):
            if earlier != name and storage.info(directory).holds_changes_to >= floor:
                return cache.get(company.pk, earlier, partial(_load, directory))
    return None


def is_elsewhere(company: Company) -> bool:
    """Return whether the index that serves the company would have to be fetched from the store."""
    if company.generation is None or not settings.STORE or collections.serve(company):
        return False
    return not replica.is_here(company, company.generation)


def index_directory(company: Company) -> Path:
    """Return the directory of the files that serve the company, or, with a store, of the copy of them that this machine
    has, or will have: see index_files(). Raises IndexNotBuilt where the row's are gone.
    """
    directory = company.embeddings_directory
    if company.generation is None:
        return directory
    return storage.generation_directory(directory, _serving(company, company.generation))


def index_files(company: Company, *, beat: Callable[[], None] = lambda: None) -> Path:
    """Return the same with the files in it: they are fetched where they lie in the store alone, which takes minutes.

    For workers and commands. beat: called now and then. Raises IndexNotBuilt, IndexCorrupt and StoreUnavailable.
    """
    directory = index_directory(company)
    return files_of(company, directory.name, beat=beat) if settings.STORE and company.generation else directory


def newest_here(company: Company) -> Path:
    """Return the directory of the copy that served last on this machine. Raises IndexNotBuilt."""
    for name in replica.served(company):
        return storage.generation_directory(company.embeddings_directory, name)
    raise IndexNotBuilt(f"This machine has no copy of the index of {company}")


def files_of(company: Company, generation: str, *, beat: Callable[[], None] = lambda: None) -> Path:
    """Return the directory of a generation's files, fetched as by index_files()."""
    if settings.STORE:
        return replica.at_hand(company, generation, wait_seconds=None, beat=beat)
    return storage.generation_directory(company.embeddings_directory, generation)


def _serving(company: Company, published: str) -> str:
    """Return the name of the generation that serves: the one that the row names, unless that is gone."""
    return published if has_generation(company, published) else _stand_in(company)


def has_generation(company: Company, name: str) -> bool:
    """Return whether there is such a generation, on the disk or in the store; while the store is away it counts as
    there.
    """
    if not settings.STORE:
        return storage.is_there(storage.generation_directory(company.embeddings_directory, name))
    try:
        replica.info(company, name)
    except IndexNotBuilt:
        return False
    except EngineError:  # damaged, or nobody can tell
        pass
    return True


def _stand_in(company: Company) -> str:
    """Return the generation that takes the place of the row's, which is gone: the newest whole one above the floor."""
    for generation in _all_generations(company, published=None):
        if generation.info.holds_changes_to < company.live_floor or generation.name == company.candidate:
            continue
        if settings.STORE or _can_be_loaded(company, generation.name):
            return generation.name
    raise IndexNotBuilt(
        f"The index {company.generation} of company '{company}' is gone from the "
        f"{'store' if settings.STORE else 'disk'}, and none is left that could "
        f"take its place: restore it, or run manage.py build_embeddings --company {company}"
    )


def _can_be_loaded(company: Company, name: str) -> bool:
    with suppress(IndexUnusable):
        storage.load(storage.generation_directory(company.embeddings_directory, name))
        return True
    return False


def info(company: Company) -> IndexInfo:
    """Return what the index that serves says of itself, without loading it. Raises IndexNotBuilt and IndexCorrupt,
    with a store StoreUnavailable as well.
    """
    while True:
        try:
            if company.generation is None:
                return storage.info(index_directory(company))
            return _info_of(company, _serving(company, company.generation))
        except IndexUnusable:
            if not _has_moved_on(company):
                raise


def _info_of(company: Company, name: str) -> IndexInfo:
    if settings.STORE:
        return replica.info(company, name)
    return storage.info(storage.generation_directory(company.embeddings_directory, name))


def sound_info(company: Company) -> IndexInfo:
    """Return the same unless files of the index are known to be damaged; a damaged copy is fetched again, and does not
    count. Raises IndexNotBuilt, IndexCorrupt and StoreUnavailable.
    """
    if settings.STORE:
        return info(company)
    runtime.verifier().require_undamaged(index_directory(company))
    return info(company)


def model_in_use(company: Company) -> ModelPassport | None:
    """Return the model of the index that serves; None where there is none, or it is damaged or does not say."""
    try:
        return info(company).passport
    except IndexUnusable:
        return None


def newest_of(company: Company, fingerprint: str) -> storage.Generation | None:
    """Return the newest generation that this model made, a candidate or not; None where there is none."""
    known = generations(company)
    return next((each for each in known if each.info.fingerprint == fingerprint), None)


def holds_changes_to(company: Company) -> int:
    """Return the last live change that the index which serves holds; 0 where there is no index. Raises IndexCorrupt."""
    try:
        return info(company).holds_changes_to
    except IndexNotBuilt:
        return 0


def count_pictures(company: Company) -> int:
    """Return how many pictures the index that serves holds, live changes left out; 0 where there is none."""
    try:
        return info(company).total_images
    except IndexNotBuilt:
        return 0


def changes_on_disk(company: Company) -> int:
    """Return the last live change that any index of the company on the disk holds: new changes count on from there.

    Ahead of the index that serves, and of the row, after an older database was restored. What is damaged is left out.
    """
    held = [_changes_in_store(company)] if settings.STORE else _changes_of(_all_generations(company, published=None))
    with suppress(IndexUnusable, StoreError):  # a plain directory is no generation
        held.append(info(company).holds_changes_to)
    return max(held, default=0)


def _changes_of(known: list[storage.Generation]) -> list[int]:
    return [each.info.holds_changes_to for each in known]


def _changes_in_store(company: Company) -> int:
    """Return the last live change that any generation in the store holds; the store is asked once a minute.

    0 where it is away, or cannot be listed: then the row counts alone.
    """
    known, now = _held_in_store.get(company.pk), time.monotonic()
    if known and known.serving == company.generation and now - known.asked_at < _HELD_SECONDS:
        return known.changes
    try:
        changes = max(_changes_of(_all_generations(company, published=None)), default=0)
    except StoreError:
        return 0
    _held_in_store[company.pk] = _Held(company.generation, now, changes)
    return changes


def missing_changes(company: Company) -> LiveChangeQuerySet:
    """Return the live changes that the index which serves lacks. Raises IndexCorrupt."""
    return company.live_changes.missing_from(holds_changes_to(company))


def is_listed(company: Company) -> bool:
    """Return whether the company has an index; one whose directory somebody has removed has none, as under Flask."""
    if settings.STORE:
        return company.generation is not None
    if company.generation is None:
        return storage.has_index(company.embeddings_directory)
    return os.path.lexists(company.embeddings_directory)


def generations(company: Company) -> list[storage.Generation]:
    """Return the company's generations, on the disk or in the store, newest first. Raises StoreUnavailable."""
    return _all_generations(company, published=published_generation(company))


def _all_generations(company: Company, *, published: str | None) -> list[storage.Generation]:
    if store := stores.of(company):
        return remote.generations(store, published)
    return storage.generations(company.embeddings_directory, published)


def published_generation(company: Company) -> str | None:
    """Return the name of the generation that serves the company; None for a plain directory, or nothing."""
    if company.generation is None:
        return storage.linked_generation(company.embeddings_directory)
    try:
        return index_directory(company).name
    except IndexNotBuilt:
        return None


# Publishing ---------------------------------------------------------------------------------------------------------


def publish(
    company: Company,
    draft: storage.Draft,
    *,
    made_from: str | None,
    confirm: Confirm = nullcontext,
    beat: Beat = _no_beat,
) -> str:
    """Have the draft's files serve the company from the next search on, and return the generation's name.

    made_from: the company's generation when the files were begun. confirm: entered around the switch; raising there
    leaves the old index serving. beat: called now and then. Raises PublishRefused where another index was published
    meanwhile, and StoreUnavailable.
    """
    directory, name = company.embeddings_directory, _new_name(company)
    with (
        _put_elsewhere(company, draft.path, name, made_from=made_from, beat=beat),
        storage.publish_lock(directory),
    ):
        _finish_publication(company, made_from)
        takes_over = _takes_over(company, made_from)
        before = published_generation(company)
        draft.complete(name)
        with _removed_unless_published(company, name):
            if takes_over:
                storage.prepare_link(directory, name)
            _switch(company, made_from, name, confirm)
        _tidy(company, name, before=before, link=takes_over)
    return name


def publish_again(
    company: Company, name: str, *, made_from: str | None, confirm: Confirm = nullcontext, beat: Beat = _no_beat
) -> None:
    """Have an earlier generation serve the company again; the later ones stay until the next publication.

    Raises IndexCorrupt where it is damaged, IndexNotBuilt where it is gone, PublishRefused, and StoreUnavailable.
    """
    _require_usable(company, name, beat)
    with storage.publish_lock(company.embeddings_directory):
        _require_there(company, name)
        _finish_publication(company, made_from)
        _switch(company, made_from, name, confirm)
        with _harmless(company):
            if store := stores.of(company):
                remote.note_published(store, name)
            elif not storage.is_plain(company.embeddings_directory):  # which somebody has put there
                storage.link(company.embeddings_directory, name)


def _new_name(company: Company) -> str:
    """Return the name of a new generation, which sorts behind all others, whichever machine's clock made theirs."""
    store = stores.of(company)
    others = [] if store is None else [*remote.names(store), *filter(None, [company.generation])]
    return storage.next_name(company.embeddings_directory, others)


def _takes_over(company: Company, made_from: str | None) -> bool:
    """Return whether a link in embeddings/ is to lead to a new generation: it replaces no directory but the index's."""
    return not settings.STORE and (made_from is None or not storage.is_plain(company.embeddings_directory))


@contextmanager
def _put_elsewhere(company: Company, files: Path, name: str, *, made_from: str | None, beat: Beat) -> Iterator[None]:
    """Put the files of a new generation where other machines find them; what no row names after the block goes again.

    Where nobody can tell whether a row does, it stays, and a worker collects it a day later.
    """
    store = stores.of(company)
    if store is not None:
        _require_not_overtaken(company, made_from)
    try:
        if store is not None:
            remote.upload(store, files, name, beat=beat)
        _make_collection(company, name, files, beat)
        yield
    except BaseException:
        with suppress(DatabaseError, StoreUnavailable):
            if not _is_named(company, name):
                _discard_elsewhere(company, name)
        raise


def _require_not_overtaken(company: Company, made_from: str | None) -> None:
    """Refuse now what _switch() would refuse once everything is uploaded."""
    if not Company.objects.filter(pk=company.pk, generation=made_from).exists():
        raise _overtaken(company)


def _overtaken(company: Company) -> PublishRefused:
    return PublishRefused(f"Another index of {company} was published meanwhile, or it was deleted: try again")


def _is_named(company: Company, name: str) -> bool:
    return Company.objects.filter(Q(generation=name) | Q(candidate=name), pk=company.pk).exists()


def discard(company: Company, name: str) -> None:
    """Remove a generation that nothing needs any more, here and elsewhere."""
    _discard_elsewhere(company, name)
    storage.discard(storage.generation_directory(company.embeddings_directory, name))


def _discard_elsewhere(company: Company, name: str) -> None:
    collections.drop(company, name)
    if store := stores.of(company):
        remote.remove(store, name)


def _make_collection(company: Company, name: str, files: Path, beat: Beat) -> None:
    """Make the generation's collection where the company needs one; _switch() refuses where it did not by then."""
    engine = Company.objects.filter(pk=company.pk).values_list("engine", flat=True).first()
    if engine is None:
        raise _overtaken(company)
    company.engine = engine
    if collections.are_wanted(company):
        collections.make(company, name, files, beat=beat)


def _require_usable(company: Company, name: str, beat: Beat) -> None:
    try:
        directory = files_of(company, name, beat=beat)
        index = storage.load(directory)
        storage.require_undamaged(directory, beat=beat)
    except IndexCorrupt as error:
        raise IndexCorrupt(f"The index {name} of {company} is damaged: {error}") from error
    if index.info.holds_changes_to < company.live_floor:
        raise PublishRefused(f"The index {name} of {company} is older than changes that are gone from the database")
    _make_collection(company, name, directory, beat)


def _require_there(company: Company, name: str) -> None:
    if not _is_there(company, name):
        raise IndexNotBuilt(f"The index {name} of {company} is gone from the {'store' if settings.STORE else 'disk'}")


def _is_there(company: Company, name: str) -> bool:
    """Return whether a generation is in the store, or, without one, on the disk."""
    if store := stores.of(company):
        return remote.exists(store, name)
    return storage.is_there(storage.generation_directory(company.embeddings_directory, name))


def _switch(company: Company, made_from: str | None, name: str, confirm: Confirm) -> None:
    """Have the row name a generation that is there."""
    _require_there(company, name)
    model = _model_columns(company, name)
    with confirm(), transaction.atomic():
        row = Company.objects.filter(pk=company.pk, engine=company.engine)
        if not row.switch_generation(made_from, name, **model):
            raise _overtaken(company)
    company.generation = name
    for column, value in model.items():
        setattr(company, column, value)


def _model_columns(company: Company, name: str) -> dict[str, str | None]:
    """Return what becomes of the columns of the model where this generation serves from now on."""
    used, new = model_in_use(company), _fingerprint(company, name)
    changed: dict[str, str | None] = (
        {} if used is None or new in (None, used.fingerprint) else {"model_before": used.fingerprint}
    )
    if company.candidate is None or not (changed or _fingerprint(company, company.candidate) in (None, new)):
        return changed
    return changed | {"candidate": None}  # it serves, or was to replace another model


def _fingerprint(company: Company, name: str) -> str | None:
    with suppress(IndexUnusable):
        if store := stores.of(company):
            return remote.info(store, name).fingerprint
        return storage.info(storage.generation_directory(company.embeddings_directory, name)).fingerprint
    return None


@contextmanager
def _removed_unless_published(company: Company, name: str) -> Iterator[None]:
    """Remove the new generation where the switch to it fails; where nobody can tell whether it failed, it stays."""
    try:
        yield
    except BaseException:
        with suppress(DatabaseError):
            if not Company.objects.filter(pk=company.pk, generation=name).exists():
                storage.drop_prepared_links(company.embeddings_directory)
                storage.discard(storage.generation_directory(company.embeddings_directory, name))
        raise


def _finish_publication(company: Company, published: str | None) -> bool:
    """Put the link to a published generation in its place where a process was killed before it did; tell whether so."""
    directory = company.embeddings_directory
    if published is None or not storage.is_link_prepared(directory, published):
        return False
    logger.warning("The publication of %s of %s was cut short: its link is put in place", published, company)
    storage.link(directory, published)
    return True


@contextmanager
def _harmless(company: Company) -> Iterator[None]:
    """Log what fails once the row has moved: the new index serves whatever becomes of this."""
    try:
        yield
    except (OSError, DatabaseError, StoreUnavailable):
        logger.exception("The new index of %s serves, but what was left to do on the disk failed", company)


def _tidy(company: Company, name: str, *, before: str | None, link: bool) -> None:
    directory, store = company.embeddings_directory, stores.of(company)
    with _harmless(company):
        if not _is_there(company, name):
            return  # deleted with its company, whose place another may have taken
        if link:
            storage.link(directory, name)
        elif storage.is_plain(directory):
            logger.warning("%s is a directory of its own: adopt_companies %s takes it over", directory, company)
        if store:
            remote.note_published(store, name)
        write_protection(company)
        storage.drop_workspaces(directory, but=str(company.pk))
        spared = _spared(company, generations(company))
        storage.prune(directory, name, before=before, keep=_kept_before(), spared=spared)
        if store:
            _prune_store(company, name, store, before=before, spared=spared)
        _collect_collections(company, name, before)


def _collect_collections(company: Company, serving: str, *others: str | None) -> None:
    """Drop the collections that no generation needs; others: what searches may still use."""
    if settings.MILVUS_URL:
        there = [each.name for each in generations(company)] if collections.are_wanted(company) else []
        collections.collect(company, serving, kept={serving, *filter(None, others), *there})


def _kept_before() -> int:
    """Return how many generations stay that served before: with a store one at least, which machines still use."""
    return max(1, settings.KEEP_GENERATIONS) if settings.STORE else settings.KEEP_GENERATIONS


def _prune_store(company: Company, name: str, store: ObjectStore, *, before: str | None, spared: set[str]) -> None:
    """Remove from the store what storage.prune() does from the disk, but for what machines may still use."""
    found = remote.look(store)
    names = [each.name for each in found if each.is_complete]
    given_up, surplus = storage.superfluous(names, name, before=before, keep=_kept_before())
    known = _known_everywhere(found)
    for superfluous in {*given_up, *(each for each in surplus if each < known)} - spared:
        _discard_elsewhere(company, superfluous)


def _known_everywhere(found: list[remote.Stored]) -> str:
    """Return the newest generation that was published so long ago that no machine uses an earlier one; "" if none was.

    As all later ones stay, settle() keeps the live changes that they lack.
    """
    times = {each.name: each.published_at for each in found if each.published_at}
    now = max(times.values(), default=None)  # the store's clock: something was published just now
    return max((name for name, time in times.items() if now and now - time >= _MACHINES_LAG), default="")


def _spared(company: Company, known: list[storage.Generation]) -> set[str]:
    """Return which generations stay beside the one that serves and those kept before it: for a change of model."""
    before = [each.name for each in known if company.model_before and each.info.fingerprint == company.model_before]
    return {*filter(None, [company.candidate]), *(before[:1] if settings.KEEP_GENERATIONS else ())}


# Candidates: of another model than the one that serves ---------------------------------------------------------------


def publish_candidate(
    company: Company,
    draft: storage.Draft,
    *,
    made_from: str | None,
    confirm: Confirm = nullcontext,
    beat: Beat = _no_beat,
) -> str:
    """Make the draft's files the company's candidate, in place of an earlier one, and return the generation's name.

    The arguments and errors are those of publish().
    """
    name = _new_name(company)
    with (
        _put_elsewhere(company, draft.path, name, made_from=made_from, beat=beat),
        storage.publish_lock(company.embeddings_directory),
    ):
        _finish_publication(company, made_from)
        draft.complete(name)
        name_candidate(company, name, made_from=made_from, confirm=confirm)
    return name


def name_candidate(company: Company, name: str, *, made_from: str | None, confirm: Confirm = nullcontext) -> None:
    """Make a generation that is there the company's candidate; see publish_candidate()."""
    earlier = company.candidate
    with confirm(), transaction.atomic():
        if not Company.objects.filter(pk=company.pk, generation=made_from).update(candidate=name):
            raise _overtaken(company)
    company.candidate = name
    if earlier not in (None, name, company.generation):
        _discard_unless_spared(company, earlier)


def drop_candidate(company: Company) -> None:
    """Give up the company's candidate, and what unfinished builds have embedded for one."""
    storage.drop_workspace(company.embeddings_directory, candidate_owner(company))
    name = company.candidate
    if name is None or not Company.objects.filter(pk=company.pk, candidate=name).update(candidate=None):
        return
    company.candidate = None
    if name != company.generation:
        _discard_unless_spared(company, name)


def candidate_owner(company: Company) -> str:
    """Return the owner of the workspace in which candidates are built; see storage.workspace."""
    return f"{company.pk}-candidate"


def _discard_unless_spared(company: Company, name: str) -> None:
    if name not in _spared(company, generations(company)):
        discard(company, name)


def use_candidate(
    company: Company,
    *,
    made_from: str | None,
    confirm: Confirm = nullcontext,
    beat: Beat = _no_beat,
) -> None:
    """Have the company's candidate serve from the next search on.

    made_from and confirm: as in publish(); in confirm the changes that the candidate lacks get vectors of its model.
    Raises IndexNotBuilt where there is none, or it is gone, IndexCorrupt where it is damaged, PublishRefused, and
    StoreUnavailable.
    """
    directory, name = company.embeddings_directory, company.candidate
    if name is None:
        raise IndexNotBuilt(f"No index of another model waits to be used for {company}")
    _require_usable(company, name, beat)
    with storage.publish_lock(directory):
        _require_there(company, name)
        _finish_publication(company, made_from)
        takes_over = _takes_over(company, made_from)
        before = published_generation(company)
        if takes_over:
            storage.prepare_link(directory, name)
        try:
            _switch(company, made_from, name, confirm)
        except BaseException:
            with suppress(DatabaseError):
                if not Company.objects.filter(pk=company.pk, generation=name).exists():
                    storage.drop_prepared_links(directory)
            raise
        _tidy(company, name, before=before, link=takes_over)


def begin_in_store(company: Company, name: str) -> None:
    """Have a generation that was uploaded from a folder serve the company, which it did there.

    Raises IndexNotBuilt where it is not in the store, PublishRefused, and StoreUnavailable.
    """
    store = stores.of(company)
    if company.generation is None:
        _switch(company, None, name, nullcontext)
    if store is not None:
        remote.note_published(store, name)


def go_by_directory(company: Company) -> None:
    """Let embeddings/<name> decide which index serves, whatever was published for the row before.

    Raises PublishRefused where an index was published meanwhile.
    """
    with transaction.atomic():
        if not Company.objects.filter(pk=company.pk).switch_generation(company.generation, None):
            raise PublishRefused(f"Another index of {company} was published meanwhile: try again")
        # What is left of the live changes is laid over it.
        Company.objects.filter(pk=company.pk).update(live_floor=0, candidate=None)
    company.refresh_from_db(fields=STATE)


def settle(company: Company) -> None:
    """Drop the live changes that every generation kept holds, and note that they are gone.

    Of generations that are only kept for a change of model a build brings up to date what they lack.
    """
    company.refresh_from_db(fields=STATE)
    kept = _kept_to_roll_back(company)
    if company.generation is None or not any(each.published for each in kept):
        return
    floor = min(each.info.holds_changes_to for each in kept)
    with transaction.atomic():
        company.live_changes.filter(sequence__lte=floor).delete()
        Company.objects.filter(pk=company.pk).update(live_floor=Greatest("live_floor", Value(floor)))


def _kept_to_roll_back(company: Company) -> list[storage.Generation]:
    """Return the generations that are there without those that are spared alone."""
    known, serving = generations(company), published_generation(company)
    earlier = [each.name for each in known if serving and each.name < serving and each.name != company.candidate]
    spared = _spared(company, known) - {serving, *earlier[: _kept_before()]}
    return [each for each in known if each.name not in spared]


# What protects a company, beside its index ---------------------------------------------------------------------------


def write_protection(company: Company) -> None:
    """Keep beside the index what protects the company, for whoever finds the one without the other.

    Raises OSError and StoreUnavailable.

    Written again until it is what the database says: somebody else may write an older state, or a newer one, meanwhile.
    """
    if not NAME_PATTERN.fullmatch(company.name):
        return  # made past all forms, it may lead out of the directory of indexes
    written = None
    while (protection := _protection(company)) != written:
        belongings.write_company_card(company, protection)
        written = protection


def _protection(company: Company) -> dict[str, Any]:
    """Return what protects the company of this name; one that is deleted is closed."""
    known = Company.objects.filter(name=company.name).first()
    return known.protection if known else {**company.protection, "active": False}


def keep_protection(company: Company) -> None:
    """Do the same for a company that was saved: where the disk or the store refuses, the log says so."""
    try:
        write_protection(company)
    except (OSError, StoreUnavailable):
        logger.exception("What protects %s could not be kept beside its index", company)


# Repair, by workers ---------------------------------------------------------------------------------------------------


def repair() -> None:
    """Bring rows, and links or the store, in line, after a backup was restored or a process killed; log what for."""
    for company in Company.objects.all():
        try:
            with storage.publish_lock(company.embeddings_directory, wait_seconds=_REPAIR_WAITS):
                _repair(company)
        except storage.PublishLockTaken:
            logger.info("An index of %s is being published: it is not looked after", company)
        except StoreUnavailable as error:
            logger.warning("No index is brought in line with its row: %s", error)
            return
        except (OSError, EngineError):
            logger.exception("The index of %s cannot be brought in line with its row", company)


def _repair(company: Company) -> None:
    directory = company.embeddings_directory
    if not belongings.has_company_card(company):  # of before there were any
        write_protection(company)
    storage.drop_workspaces(directory, but=str(company.pk))
    company.refresh_from_db(fields=STATE)
    if company.generation is None:
        return
    if company.candidate and not _is_there(company, company.candidate):
        logger.warning("The index %s of %s, which waited to be used, is gone", company.candidate, company)
        Company.objects.filter(pk=company.pk, candidate=company.candidate).update(candidate=None)
        company.candidate = None
    serving = company.generation if _is_there(company, company.generation) else _stand_in(company)
    if serving != company.generation:
        logger.warning("The row of %s names %s from now on, instead of %s", company, serving, company.generation)
        _make_collection(company, serving, files_of(company, serving), _no_beat)
        _switch(company, company.generation, serving, nullcontext)
    _collect_collections(company, serving)
    if store := stores.of(company):
        _repair_store(company, store, serving)
    elif not _finish_publication(company, serving) and storage.linked_generation(directory) not in (None, serving):
        logger.warning("The link of %s leads to %s again, as its row says", company, serving)
        storage.link(directory, serving)


def collect_leftovers() -> None:
    """Remove from the store what killed publishers have left there a day ago, and what builds that are over have."""
    root = stores.root()
    if root is None:
        return
    try:
        _collect_generations(root)
        _collect_work_of_builds(root)
    except StoreUnavailable as error:
        logger.warning("What killed processes have left in the store stays for now: %s", error)


def _collect_generations(root: ObjectStore) -> None:
    now = root.now()
    for company in Company.objects.all():
        named = set(filter(None, [company.generation, company.candidate]))
        for name in remote.collect(root.below(company.name), named=named, now=now, grace=_GRACE):
            logger.warning("The index %s of %s, which nobody has published, is removed from the store", name, company)


def _collect_work_of_builds(root: ObjectStore) -> None:
    companies, _ = root.children(stores.BUILDING)
    for place in (each for company in companies for each in root.children(company)[0]):
        build = place.rpartition("/")[2]
        if not (build.isdecimal() and IndexBuild.objects.active().filter(pk=int(build)).exists()):
            root.delete([each.key for each in root.listing(place)])


def _repair_store(company: Company, store: ObjectStore, serving: str) -> None:
    if any(each.name == serving and not each.published_at for each in remote.look(store)):
        remote.note_published(store, serving)  # its publisher was killed before it did
