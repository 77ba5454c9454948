"""``vbmstat pool``: one model over the scans of several sites, from the sums that the sites share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vbmstat.cli.glm import check_atlases, print_summary


def command(
    files: Annotated[list[Path], typer.Argument(help="Files of vbmstat glm --share, named after the sites.")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    contrast: Annotated[
        list[str] | None, typer.Option(help="As for vbmstat glm; by default each column that the sites share.")
    ] = None,
    common_intercept: Annotated[
        bool, typer.Option("--common-intercept", help="One intercept for all sites, not one each.")
    ] = False,
    meta: Annotated[
        bool, typer.Option("--meta", help="Also a random-effects meta-analysis of the sites' own effects.")
    ] = False,
    inference: Annotated[str | None, typer.Option(help="fdr; permutations need the scans.")] = None,
    cluster_threshold: Annotated[
        float, typer.Option(help="Cluster-forming threshold: uncorrected p below 1, else t or F.")
    ] = 0.001,
    one_sided: Annotated[
        bool, typer.Option("--one-sided/--two-sided", help="Corrected p of t for a positive effect only.")
    ] = False,
    allow_mixed: Annotated[bool, typer.Option("--allow-mixed", help="Accept several engines, kinds of maps.")] = False,
    atlas: Annotated[str, typer.Option(help="Atlas that names clusters and peaks, or none.")] = "lpba40",
    second_atlas: Annotated[
        str, typer.Option(help="Names clusters and peaks in no region of --atlas; or none.")
    ] = "neuromorphometrics",
    spm_names: Annotated[bool, typer.Option("--spm-names", help="Also spmT_0001.nii, con_0001.nii …")] = False,
    outside: Annotated[str, typer.Option(help="Value outside the mask: zero or nan.")] = "zero",
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Pictures of the design and each contrast.")
    ] = True,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, one page about the results.")] = False,
) -> None:
    """Fit one model to the scans of several sites, from the sums that each site shares."""
    from vbmstat.cli.progress import print_removed  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.glm.pooled.analysis import PoolSpec, pool_sites  # noqa: PLC0415
    from vbmstat.glm.record import RECORD  # noqa: PLC0415
    from vbmstat.glm.spec import InferenceSpec  # noqa: PLC0415
    from vbmstat.image.storage import listed_files  # noqa: PLC0415
    from vbmstat.report.results import Outputs, write_results  # noqa: PLC0415
    from vbmstat.roi.atlas import licence_notice  # noqa: PLC0415

    check_atlases([atlas, second_atlas], names_clusters=True)
    asked = InferenceSpec(inference or (), one_sided=one_sided, cluster_threshold=cluster_threshold)  # type: ignore[arg-type]
    earlier = listed_files(out, RECORD)
    results = pool_sites(files, PoolSpec(contrast, asked, not common_intercept, meta, allow_mixed))
    for loaded in write_results(results, out, Outputs(atlas, second_atlas, spm_names, outside, figures)):
        typer.echo(licence_notice(loaded))
    print_summary(results, out, ())
    print_removed(out, earlier)
    if report:
        from vbmstat.report.write import write_report  # noqa: PLC0415 - imports matplotlib

        typer.echo(f"report in {write_report(out)}")
