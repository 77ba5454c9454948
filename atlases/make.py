"""Make `atlases/<name>/labels.tsv` and `SOURCE.md` from the tables of the deepmriprep wheel, by label id.

    python atlases/make.py

Run it again when the wheel's version changes; a test compares the folders with what it makes. The label list of an
atlas whose terms forbid to pass on any part of it is not copied here: its names are read from the wheel.
"""
# ruff: noqa: E501 - a reference a line

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pandas as pd

from vbmstat import assets
from vbmstat.image import storage
from vbmstat.roi.atlas import DISTRIBUTION, FOLDER, SOURCES, load_atlas, wheel_table

HERE = Path(__file__).parent
NOT_COPIED = ("hammers", "thalamus")

REFERENCES = {
    "aal3": "Rolls ET et al. (2020). Automated anatomical labelling atlas 3. NeuroImage 206:116189. doi:10.1016/j.neuroimage.2019.116189",
    "anatomy3": "Eickhoff SB et al. (2005). A new SPM toolbox for combining probabilistic cytoarchitectonic maps and functional imaging data. NeuroImage 25(4):1325–1335. doi:10.1016/j.neuroimage.2004.12.034 (the toolbox's version 3; its areas have publications of their own)",
    "cobra": "CoBrA Lab, four atlases in one. Amygdala: Treadway MT et al. (2014), Biol Psychiatry; Entis JJ et al. (2012), NeuroImage 60(2):1226–1235. Hippocampus and its white matter: Amaral RSC et al. (2016), NeuroImage, doi:10.1016/j.neuroimage.2016.10.027. Cerebellum: Park MT et al. (2014), NeuroImage 95:217–231, doi:10.1016/j.neuroimage.2014.03.037. Striatum, pallidum, thalamus: Tullo S et al., Sci Data",
    "hammers": "Hammers A et al. (2003). Three-dimensional maximum probability atlas of the human brain, with particular reference to the temporal lobe. Hum Brain Mapp 19(4):224–247. doi:10.1002/hbm.10123; Gousias IS et al. (2008), NeuroImage 40(2):672–684",
    "ibsr": "Internet Brain Segmentation Repository 2.0 (nitrc.org/projects/ibsr); Rohlfing T (2012). Image similarity and tissue overlaps as surrogates for image registration accuracy. IEEE Trans Med Imaging 31(2):153–163. doi:10.1109/TMI.2011.2163944",
    "julichbrain": "Amunts K et al. (2020). Julich-Brain: a 3D probabilistic atlas of the human brain's cytoarchitecture. Science 369:988–992. doi:10.1126/science.abb4588 (version 2.2)",
    "lpba40": "Shattuck DW et al. (2008). Construction of a 3D probabilistic atlas of human cortical structures. NeuroImage 39(3):1064–1080. doi:10.1016/j.neuroimage.2007.09.031",
    "mori": "Oishi K et al. (2009). Atlas-based whole brain white matter analysis using large deformation diffeomorphic metric mapping. NeuroImage 46(2):486–499. doi:10.1016/j.neuroimage.2009.01.002",
    "neuromorphometrics": "MICCAI 2012 Grand Challenge and Workshop on Multi-Atlas Labeling. Credit the scans to OASIS (oasis-brains.org) and the labels as “provided by Neuromorphometrics, Inc. under academic subscription”",
    "schaefer": "Schaefer A et al. (2018). Local-global parcellation of the human cerebral cortex from intrinsic functional connectivity MRI. Cereb Cortex 28(9):3095–3114. doi:10.1093/cercor/bhx179",
    "suit": "Diedrichsen J et al. (2009). A probabilistic MR atlas of the human cerebellum. NeuroImage 46(1):39–46. doi:10.1016/j.neuroimage.2009.01.045",
    "thalamic_nuclei": "Saranathan M et al. (2021). In vivo high-resolution structural MRI-based atlas of human thalamic nuclei. Sci Data 8:275. doi:10.1038/s41597-021-01062-y",
    "thalamus": "Najdenovska E et al. (2018). In-vivo probabilistic atlas of human thalamic nuclei based on diffusion-weighted magnetic resonance imaging. Sci Data 5:180270. doi:10.1038/sdata.2018.270",
}  # fmt: skip

# Where the wheel's table is mended: label -> name.
MENDED = {
    "lpba40": {181: "Cerebellum", 182: "Brainstem"},
    # The wheel's table ends at 28. The numbers are those of SUIT's own lookup table, and the places fit them.
    "suit": {
        29: "Left Dentate", 30: "Right Dentate", 31: "Left Interposed", 32: "Right Interposed",
        33: "Left Fastigial", 34: "Right Fastigial",
    },
}  # fmt: skip
NOTES = {
    "lpba40": "27 left and right pairs, cerebellum and brainstem: 29 merged regions.",
    "suit": "The wheel's table names labels 1 to 28; 29 to 34, the deep nuclei, are named after SUIT's own lookup table "
    "(DiedrichsenLab/cerebellar_atlases, atl-Anatom.tsv).",
    "cobra": "Voxels of 0.6 mm. Measured here on its own grid: nothing is truncated or shifted.",
    "thalamic_nuclei": "Voxels of 0.5 mm.",
    "mori": "The image's left and right halves of the pons reach across the midline.",
    "schaefer": "Left and right parcels are no pairs: each is a region of its own.",
    "hammers": "The terms cover the list of regions too, so labels.tsv is left out: names are read from the wheel.",
    "thalamus": "All rights are reserved, so labels.tsv is left out: names are read from the wheel.",
}


def main() -> None:
    """Write all folders."""
    for name in SOURCES:
        if name not in NOT_COPIED:
            storage.write_table(HERE / name / "labels.tsv", labels(name))
        storage.write_text(HERE / name / "SOURCE.md", source(name))


def labels(name: str) -> pd.DataFrame:
    """The wheel's table with the mended names: label, hemisphere, name, region."""
    return wheel_table(SOURCES[name], MENDED.get(name, {})).reset_index()


def source(name: str) -> str:
    """Where an atlas comes from and what its makers allow."""
    entry, family = SOURCES[name], "schaefer" if name.startswith("schaefer") else name
    atlas = load_atlas(name)
    grid, n_regions = atlas.image.grid, atlas.table["region"].nunique()
    table_path = f"{FOLDER}/{entry.stem}.csv"
    version = metadata.version(DISTRIBUTION)
    digest = assets.sha256(assets.distribution_file(DISTRIBUTION, table_path))
    size = f"{' × '.join(map(str, grid.shape))}, {grid.voxel_size_mm[0]:g} mm"
    rows = {
        "reference": REFERENCES[family],
        "licence": f"**{entry.licence}**. By CAT12's notes; `vbmstat roi` prints it and writes it beside its tables",
        "image": f"`{FOLDER}/{entry.stem}.nii.gz` of the `{DISTRIBUTION}` {version} wheel (PyPI, MIT); read from there, "
        "not copied into this project",
        "sha256 of the image": f"`{entry.sha256}`",
        "content": f"{len(atlas.table)} labels in {n_regions} regions (left + right); {size}; CAT12's template space",
        "label table": f"`{table_path}`, sha256 `{digest}`, by label id",
    }
    lines = [f"# {name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    if family in NOTES:
        lines += ["", NOTES[family]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
