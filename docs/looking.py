"""Draw the picture of `docs/looking.md` into `docs/images/looking/`, from the small study of the tests.

python docs/looking.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.small_study import SLOPE_MM, make_study
from vbmstat.glm.analysis import fit_glm
from vbmstat.report.look import look_at, write_look
from vbmstat.report.results import write_results

IMAGE = Path(__file__).parent / "images" / "looking" / "interaction.png"


def main() -> None:
    """Fit an interaction of age and group, and look at the place where patients lose more with age."""
    with TemporaryDirectory() as folder:
        study = make_study(Path(folder))
        results = fit_glm(
            study / "cat12" / "mri", "gm ~ group * age + tiv", study / "participants.tsv", ["group[T.patient]:age"],
            repeats=0, fwhm_mm=8,
        )  # fmt: skip
        write_results(results, study / "glm")
        (look,) = look_at(study / "glm", [(",".join(map(str, SLOPE_MM)), None)])
        IMAGE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(write_look(look, study / "plots")[0], IMAGE)


if __name__ == "__main__":
    main()
