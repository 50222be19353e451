"""Moving a company from one search engine to another, without a gap in searching.

On the way to Milvus the row says first that publications make collections as well. From then on the generation that
serves has its collection, or gets it here, however many are published meanwhile; and the row moves on only while it
names the generation whose collection was seen complete. Killed at any point, the command can be run again, or back.
"""

from collections.abc import Callable

from django.db import transaction

from search import collections, publication
from search.engine import storage
from search.engine.errors import IndexNotBuilt
from tenants import audit
from tenants.models import Company

Engine = Company.Engine


def move(company: Company, engine: Engine, *, by: audit.Actor | None, beat: Callable[[], None] = lambda: None) -> bool:
    """Have another engine search the company from the next search on; return whether it did not already.

    A collection that is gone from Milvus is made again.

    beat: called about once a second. Raises EngineUnavailable, IndexNotBuilt, IndexCorrupt and PublishRefused: then
    everything is searched as before.
    """
    while True:
        company.refresh_from_db(fields=publication.STATE)
        if company.engine == engine == Engine.LOCAL:
            return False
        if company.generation is None:
            raise IndexNotBuilt(f"{company} has no index that a build has published: run build_embeddings first")
        if engine == Engine.MILVUS and company.engine == Engine.LOCAL:
            _switch(company, company.generation, Engine.MOVING)
            continue
        files = publication.index_files(company)
        if engine == Engine.MILVUS:
            collections.make(company, files.name, files, beat=beat)  # which somebody may have dropped, too
        else:
            storage.require_undamaged(files, beat=beat)
        if company.engine == engine:
            return False
        with transaction.atomic():
            if files.name == company.generation and _switch(company, company.generation, engine):
                audit.record(by, audit.Action.ENGINE_CHOSEN, company, engine)
                return True


def _switch(company: Company, generation: str, engine: Engine) -> bool:
    return Company.objects.filter(pk=company.pk).switch_engine(generation, engine)
