"""Keywords of fit_glm: what repeats or contradicts a spec, and the old spellings of variance."""

from __future__ import annotations

import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.keywords import GlmKeywords, ModelKeywords, as_spec, new_spelling, split_keywords
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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"robust": "hc3"}, "hc3"), ({"spm_resms": True}, "spm"), ({"repeated": "id"}, "sandwich:id"),
        ({"variance_groups": "sex"}, "groups:sex"),
    ],
)  # fmt: skip
def test_old_keywords_are_translated_with_a_warning(old, new):
    with pytest.warns(FutureWarning, match=f"write variance='{new}'"):
        assert split_keywords(old) == ({"variance": new}, Compute())
    with pytest.warns(FutureWarning):
        assert split_keywords({**old, "variance": new})[0] == {"variance": new}
    with pytest.raises(
        DesignError, match=rf"variance='ols' beside {next(iter(old))} for '{new}': leave the old keyword"
    ):
        split_keywords({**old, "variance": "ols"})


def test_a_contrast_has_one_variance():
    assert new_spelling() is None
    with pytest.raises(DesignError, match=r"several variances \(hc3, spm\): choose one with --variance"):
        new_spelling(robust="hc3", spm_resms=True)


def test_every_field_of_a_model_has_a_keyword():
    assert set(ModelKeywords.__annotations__) == set(_PLACES)
    assert set(GlmKeywords.__annotations__) == {*ModelKeywords.__annotations__, *Compute.names()}
