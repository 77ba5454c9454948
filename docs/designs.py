"""Draw the design of every command of `docs/designs.md` into `docs/images/designs/`, on the people of its test.

python docs/designs.py
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.test_designs import COMMANDS, PAGE, is_repeated, make_cohort
from vbmstat.cli import app

IMAGES = PAGE.parent / "images" / "designs"


def slug(section: str) -> str:
    """``Two groups`` -> ``two-groups``."""
    return re.sub(r"\W+", "-", section.lower()).strip("-")


def main() -> None:
    """Draw all, and link a picture that the page does not show yet."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    text = PAGE.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        cohorts = {repeated: make_cohort(Path(folder) / str(repeated), repeated)[0] for repeated in (False, True)}
        for section, command in COMMANDS.items():
            os.chdir(cohorts[is_repeated(command)])
            out = Path(folder) / "out"
            quick = ["--repeats", "0", "--atlas", "none", "--out", str(out)]
            quick += [] if "--inference fdr" in command else ["--permutations", "20"]
            result = CliRunner().invoke(app, shlex.split(command)[1:] + quick)
            if result.exit_code:
                raise SystemExit(result.output)
            shutil.copy(out / "design.png", IMAGES / f"{slug(section)}.png")
            picture = f"\n![Design matrix, scans by columns: {section}](images/designs/{slug(section)}.png)\n"
            if picture not in text:
                text = text.replace(f"```\n{command}\n```\n", f"```\n{command}\n```\n{picture}")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
