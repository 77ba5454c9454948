"""Safe, unique names of files, folders and columns, made from any text.

Two names count as the same if any file system treats them so: if they differ only in letter case (Windows, macOS) or
in Unicode form (macOS).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)  # devices of Windows
_PLAIN_FORMULA = re.compile(r"\s*\w+\s*~\s*\w+(\s*\+\s*\w+)*\s*")
_MAX_LETTERS = 80  # of a result folder's name
_MAX_BYTES = 200  # of a text inside a file name: 255 are allowed, and suffixes follow
_DIGITS = 6  # of a hash in a name


def normalized(text: str) -> str:
    """Text in Unicode's composed form (NFC; macOS decomposes file names), without blanks around it."""
    return text.strip() if text.isascii() else unicodedata.normalize("NFC", text).strip()


def same_file_key(name: str) -> str:
    """A key that two names share if a file system may treat them as one file.

    Examples
    --------
    >>> same_file_key("Größe") == same_file_key("GRÖSSE")
    True
    """
    folded = unicodedata.normalize("NFC", name).upper().casefold()
    return unicodedata.normalize("NFC", folded)


def is_reserved(name: str) -> bool:
    """Whether Windows refuses the name: a device (``aux``, ``com1.txt``), or a dot or space at the end."""
    return bool(_RESERVED.fullmatch(name)) or name.endswith((".", " "))


def tell_apart(names: Sequence[str], marks: Sequence[str]) -> list[str]:
    """Make names unique on every file system: clashing and empty names get their mark appended.

    Parameters
    ----------
    names : sequence of str
        Wanted names; a unique one stays as it is.
    marks : sequence of str
        Unique suffixes of digits and lower-case letters, one per name; none ends in another.

    Examples
    --------
    >>> tell_apart(["Area", "area", "Pole", ""], ["_1", "_2", "_3", "_4"])
    ['Area_1', 'area_2', 'Pole', '_4']
    """
    unique = list(names)
    while True:
        count = Counter(map(same_file_key, unique))
        clashes = [not name or count[same_file_key(name)] > 1 for name in unique]
        if not any(clashes):
            return unique
        unique = [name + mark if clash else name for name, mark, clash in zip(unique, marks, clashes, strict=True)]


def unique_names(texts: Sequence[str], to_name: Callable[[str], str]) -> list[str]:
    """A name for each text, unique on every file system.

    Parameters
    ----------
    texts : sequence of str
        Any text.
    to_name : callable
        Reduces a text to safe characters. ``x`` and six digits of the text's hash are appended where the result is
        empty or not unique.

    Examples
    --------
    >>> unique_names(["site A", "1.5T", "15T"], lambda text: "".join(filter(str.isalnum, text)))
    ['siteA', '15Txc04fd5', '15Txdcf010']
    """
    repeats = [texts[:at].count(text) for at, text in enumerate(texts)]
    salted = [text if not n else f"{text}\0{n}" for text, n in zip(texts, repeats, strict=True)]
    return tell_apart([shortened(to_name(text), text) for text in texts], _marks(salted))


def _marks(texts: Sequence[str]) -> list[str]:
    """``x`` and a hash of each text, with as many digits as make all of them differ."""
    for digits in range(_DIGITS, 65):
        marks = [f"x{_digest(text, digits)}" for text in texts]
        if len(set(marks)) == len(texts):
            break
    return marks


def shortened(name: str, text: str) -> str:
    """The name, or, if it is too long for a file system, its start with a hash of the text that it stands for."""
    if len(name.encode("utf-8", "surrogatepass")) <= _MAX_BYTES:
        return name
    cut = name.encode("utf-8", "surrogatepass")[: _MAX_BYTES - _DIGITS - 1].decode("utf-8", "ignore")
    return f"{cut}x{_digest(text, _DIGITS)}"


def formula_name(formula: str, endings: Sequence[str] = ()) -> str:
    """Folder name of a model, from its formula alone: its words, and a hash if the words do not determine it.

    Words determine a formula that is a plain sum of lower-case words.

    Parameters
    ----------
    formula : str
        For example ``"gm ~ age + sex"``.
    endings : sequence of str
        Suffixes that other code appends with an underscore; a formula whose last word is one of them gets a hash.

    Examples
    --------
    >>> formula_name("gm ~ age + sex")
    'gm_age_sex'
    >>> formula_name("gm ~ age * sex")
    'gm_age_sex-545140'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in formula).split()
    name = "_".join(words)
    is_determined = (
        _PLAIN_FORMULA.fullmatch(formula) is not None
        and len(words) == len(re.findall(r"\w+", formula))  # an underscore inside a word looks like one between two
        and same_file_key(name) == name
        and max(len(name), len(name.encode())) <= _MAX_LETTERS
        and words[-1] not in endings
    )
    if is_determined:
        return name
    quoted = any(quote in formula for quote in "`'\"")  # spaces count inside quotes
    canonical = formula if quoted else " ".join(re.findall(r"\w+|[^\w\s]", formula))
    cut = name.encode("utf-8", "ignore")[: _MAX_LETTERS - _DIGITS - 1].decode("utf-8", "ignore").rstrip("_")
    return f"{cut or 'model'}-{_digest(canonical, _DIGITS)}"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
