"""Keywords of fit_glm: what repeats or contradicts a spec."""

from __future__ import annotations

import pytest

from vbmstat.glm.keywords import GlmKeywords, ModelKeywords, as_spec
from vbmstat.glm.spec import _PLACES, Compute, ModelSpec


def test_a_spec_from_keywords_is_the_spec_itself():
    spec, compute = as_spec("gm ~ age", ["age"], None, {"repeats": 3, "variance": "hc3", "n_threads": 2})
    assert spec == ModelSpec.make("gm ~ age", ["age"], repeats=3, variance="hc3")
    assert (compute.n_threads, compute.device) == (2, "cpu")
    assert as_spec(spec, None, Compute(n_threads=2), {}) == (spec, compute)


@pytest.mark.parametrize(
    ("model", "contrasts", "compute", "keywords", "match"),
    [
        (ModelSpec("gm ~ age"), None, None, {"repeats": 3}, "repeats beside a ModelSpec"),
        (ModelSpec("gm ~ age"), ["age"], None, {}, "contrasts beside a ModelSpec"),
        ("gm ~ age", None, Compute(), {"n_threads": 3}, "keywords of Compute beside compute="),
        ("gm ~ age", None, None, {"thread": 3}, "no option 'thread' .nearest"),
    ],
)
def test_what_says_a_thing_twice_is_refused(model, contrasts, compute, keywords, match):
    with pytest.raises(TypeError, match=match):
        as_spec(model, contrasts, compute, keywords)


def test_every_field_of_a_model_has_a_keyword():
    assert set(ModelKeywords.__annotations__) == set(_PLACES)
    assert set(GlmKeywords.__annotations__) == {*ModelKeywords.__annotations__, *Compute.names()}
