"""Text as names of files, folders and columns: stripped to safe characters, and one-to-one all the same.

Two names count as one where any file system takes them for one: in other case (Windows, macOS), or in another Unicode
form of the same letters (macOS).
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


def same_file_key(name: str) -> str:
    """What two names have in common if a file system may take them for one.

    Examples
    --------
    >>> same_file_key("Größe") == same_file_key("GRÖSSE")
    True
    """
    folded = unicodedata.normalize("NFC", name).upper().casefold()
    return unicodedata.normalize("NFC", folded)


def is_reserved(name: str) -> bool:
    """Whether Windows takes no file of that name: a device (``aux``, ``com1.txt``), a dot or space at the end."""
    return bool(_RESERVED.fullmatch(name)) or name.endswith((".", " "))


def tell_apart(names: Sequence[str], marks: Sequence[str]) -> list[str]:
    """Names of which no two are the same file: those that are, and empty ones, get their mark at the end.

    Parameters
    ----------
    names : sequence of str
        Names that are wanted; one that is like no other stays as it is.
    marks : sequence of str
        A text for each that tells it from all others, of digits and letters without case. None ends in another.

    Examples
    --------
    >>> tell_apart(["Area", "area", "Pole", ""], ["_1", "_2", "_3", "_4"])
    ['Area_1', 'area_2', 'Pole', '_4']
    """
    told = list(names)
    while True:
        count = Counter(map(same_file_key, told))
        again = [not name or count[same_file_key(name)] > 1 for name in told]
        if not any(again):
            return told
        told = [name + mark if doubled else name for name, mark, doubled in zip(told, marks, again, strict=True)]


def unique_names(texts: Sequence[str], to_name: Callable[[str], str]) -> list[str]:
    """Texts as names, one for each, of which no two are the same file on any system.

    Parameters
    ----------
    texts : sequence of str
        Any text.
    to_name : callable
        Strips a text to a name. Its result stays as it is where it is not empty and no other text has it; else ``x``
        and six digits of the text's hash follow.

    Examples
    --------
    >>> unique_names(["site A", "1.5T", "15T"], lambda text: "".join(filter(str.isalnum, text)))
    ['siteA', '15Txc04fd5', '15Txdcf010']
    """
    repeats = [texts[:at].count(text) for at, text in enumerate(texts)]
    salted = [text if not n else f"{text}\0{n}" for text, n in zip(texts, repeats, strict=True)]
    return tell_apart([shortened(to_name(text), text) for text in texts], _marks(salted))


def _marks(texts: Sequence[str]) -> list[str]:
    """``x`` and a hash of each text, as long as it takes for no two to be equal."""
    for digits in range(_DIGITS, 65):
        marks = [f"x{_digest(text, digits)}" for text in texts]
        if len(set(marks)) == len(texts):
            break
    return marks


def shortened(name: str, text: str) -> str:
    """A name that is too long for a file system, cut, with a hash of the text that it stands for."""
    if len(name.encode("utf-8", "surrogatepass")) <= _MAX_BYTES:
        return name
    cut = name.encode("utf-8", "surrogatepass")[: _MAX_BYTES - _DIGITS - 1].decode("utf-8", "ignore")
    return f"{cut}x{_digest(text, _DIGITS)}"


def formula_name(formula: str, endings: Sequence[str] = ()) -> str:
    """Name of a model's folder: the formula's words, and a hash of the formula where they do not tell all of it.

    The name depends on the formula alone. Words tell all of a formula that is a sum of words in lower case; where they
    do not, two formulas with the same words differ in the hash.

    Parameters
    ----------
    formula : str
        For example ``"gm ~ age + sex"``.
    endings : sequence of str
        What may be put behind the name with an underscore, so that no formula's words may end in it.

    Examples
    --------
    >>> formula_name("gm ~ age + sex")
    'gm_age_sex'
    >>> formula_name("gm ~ age * sex")
    'gm_age_sex-545140'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in formula).split()
    name = "_".join(words)
    tells_all = (
        _PLAIN_FORMULA.fullmatch(formula) is not None
        and len(words) == len(re.findall(r"\w+", formula))  # an underscore inside a word looks like one between two
        and same_file_key(name) == name
        and max(len(name), len(name.encode())) <= _MAX_LETTERS
        and words[-1] not in endings
    )
    if tells_all:
        return name
    quoted = any(quote in formula for quote in "`'\"")  # spaces count inside quotes
    canonical = formula if quoted else " ".join(re.findall(r"\w+|[^\w\s]", formula))
    cut = name.encode("utf-8", "ignore")[: _MAX_LETTERS - _DIGITS - 1].decode("utf-8", "ignore").rstrip("_")
    return f"{cut or 'model'}-{_digest(canonical, _DIGITS)}"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
