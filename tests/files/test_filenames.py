"""Text becomes names of files, folders and columns, and no two texts become one."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vbmstat.files.filenames import formula_name, is_reserved, same_file_key, tell_apart, unique_names

ANY_TEXT = st.text(max_size=40) | st.text("aAbBéÉ́ß<>=.:1 _-ſİıσς", max_size=4)


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def as_file_systems_see(name: str) -> set[str]:
    """A name in the forms in which Linux, Windows and macOS compare it."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    return {change(form) for form in forms for change in (str, str.lower, str.upper, str.casefold)}


def apart(names: list[str]) -> bool:
    seen = [as_file_systems_see(name) for name in names]
    return all(not a & b for at, a in enumerate(seen) for b in seen[at + 1 :])


@given(st.lists(ANY_TEXT, unique=True, max_size=8))
@example(["<65", "=65", ">65"])
@example(["M", "m", "Mx" + "0" * 6])
@example(["é", "é", "e"])
@example(["a" * 300, "a" * 301])
def test_no_two_texts_have_one_name(texts) -> None:
    names = unique_names(texts, letters)
    assert len(names) == len(texts)
    assert apart(names)
    assert all(name and len(name.encode()) <= 210 for name in names)


@given(st.lists(ANY_TEXT, unique=True, max_size=8))
def test_a_name_that_no_other_text_has_stays(texts) -> None:
    for text, told in zip(texts, unique_names(texts, letters), strict=True):
        name = letters(text)
        alone = all(apart([name, letters(other)]) for other in texts if other != text)
        if name and alone:
            assert told == name


def test_a_name_does_not_depend_on_the_order() -> None:
    texts = ["<65", "=65", ">65", "age"]
    forwards, backwards = unique_names(texts, letters), unique_names(texts[::-1], letters)
    assert forwards == backwards[::-1]
    assert forwards[3] == "age"
    assert all(name.startswith("65x") for name in forwards[:3])


def test_marks_that_make_another_name_are_added_again() -> None:
    told = tell_apart(["a", "a", "A_1", "b"], ["_1", "_2", "_3", "_4"])
    assert told == ["a_1_1", "a_2", "A_1_3", "b"]


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("gm ~ age + sex", "gm_age_sex"),
        ("gm~age+sex+tiv", "gm_age_sex_tiv"),
        ("gm ~ 1", "gm_1"),
        ("gm ~ alter + größe2", None),  # ß is ss where case does not count
        ("gm ~ dosé", "gm_dosé"),
    ],
)
def test_a_sum_of_words_is_the_folders_name(formula, name) -> None:
    assert formula_name(formula) == name or (name is None and "-" in formula_name(formula))


def test_other_formulas_of_the_same_words_have_other_folders() -> None:
    formulas = [
        "gm ~ age + sex", "gm ~ age * sex", "gm ~ age : sex", "gm ~ age - sex", "gm ~ Age + sex", "gm ~ age_sex",
        "gm ~ (age) + sex", "gm_age ~ sex", "gm ~ age + C(sex)", "gm ~ C(age) + sex", "gm ~ c(age) + sex",
        "gm ~ `age sex`", "gm ~ `age  sex`", "gm ~ age + sex + roi", "gm ~ age + sex_roi",
        "gm ~ " + " + ".join(["a" * 40] * 3), "gm ~ " + " + ".join(["a" * 40] * 4), "gm ~ " + "é" * 79, "~", "gm ~ ()",
    ]  # fmt: skip
    levels = ["", "_roi", "_region"]
    names = [formula_name(formula, ("roi", "region")) + level for formula in formulas for level in levels]
    assert apart(names)
    assert all(len(name) <= 90 and len(name.encode()) <= 200 for name in names)
    assert formula_name("gm ~ age*sex") == formula_name("gm  ~ age * sex")


@given(st.lists(st.text("gmGM ~+*:_-()`'\"ab1é", max_size=14), unique=True, max_size=12))
def test_formulas_of_any_text_differ(formulas) -> None:
    meant = {" ".join(f.replace("~", " ~ ").replace("+", " + ").split()): f for f in formulas if "`" not in f}
    names = {formula_name(formula) for formula in meant.values()}
    assert apart(sorted(names))
    assert not any(is_reserved(name) for name in names)


@pytest.mark.parametrize("name", ["aux", "CON", "com1.txt", "a.", "a ", "LPT²"])
def test_names_that_windows_does_not_take(name) -> None:
    assert is_reserved(name)
    assert not is_reserved("x" + name.rstrip(". "))


def test_case_and_unicode_form_do_not_tell_files_apart() -> None:
    assert same_file_key("é") == same_file_key("É") != same_file_key("e")
