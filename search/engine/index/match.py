from dataclasses import dataclass

from search.engine.index.records import ImageRecord


@dataclass(frozen=True, slots=True)
class Match:
    image: ImageRecord
    score: float  # cosine similarity, -1..1, higher is closer; to six digits
    percent: float | None = None  # 0 to 100: how likely the query shows this picture; None where it cannot be told
