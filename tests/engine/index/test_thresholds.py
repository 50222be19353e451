from search.engine.index.thresholds import Thresholds, thresholds_of
from search.engine.model.weights import builtin_weights


def test_the_built_in_weights_have_thresholds_of_their_own() -> None:
    assert thresholds_of(builtin_weights().passport.fingerprint).same > Thresholds().same


def test_weights_that_nobody_has_measured_have_the_usual_ones() -> None:
    assert thresholds_of("f" * 64) == thresholds_of(None) == Thresholds()
