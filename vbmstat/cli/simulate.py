"""``vbmstat simulate``: a synthetic cohort with a known effect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Argument(help="BIDS folder to create.")],
    n: Annotated[int, typer.Option("--n", help="Number of people, one scan each.")] = 20,
    effect: Annotated[
        float, typer.Option("--effect", help="Percent change of the region's GM volume per SD of age (17.3 years).")
    ] = -10.0,
    region: Annotated[
        str, typer.Option("--region", help="Ball in template space: x,y,z,radius in mm (MNI).")
    ] = "-38,4,2,16",
    voxel_size: Annotated[float, typer.Option("--voxel-size", help="Voxel size in mm; 2 is fast.")] = 1.0,
    noise: Annotated[float, typer.Option("--noise", help="Rician sigma in percent of the WM intensity.")] = 3.0,
    bias: Annotated[float, typer.Option("--bias", help="Range of the bias field over the brain in percent.")] = 40.0,
    variation: Annotated[float, typer.Option("--variation", help="How much people differ, 0 to 1.5.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same files.")] = 0,
    maps: Annotated[bool, typer.Option("--maps", help="Also write each scan's true tissue fractions.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier simulated cohort.")] = False,
) -> None:
    """Simulate T1w scans of people whose grey matter declines with age in one known region."""
    from vbmstat.cli.progress import stages  # noqa: PLC0415  (heavy imports inside the command)
    from vbmstat.simulate import Settings, parse_region, simulate_cohort  # noqa: PLC0415

    settings = Settings(
        n_scans=n, effect_percent=effect, region=parse_region(region), voxel_size_mm=voxel_size,
        noise_percent=noise, bias_percent=bias, variation=variation, seed=seed,
    )  # fmt: skip
    with stages() as report:
        simulate_cohort(
            out, settings, write_maps=maps, overwrite=overwrite,
            report=lambda done, total: report("simulating", done, total),
        )  # fmt: skip
    typer.echo(f"{n} scans in {out}, ground truth in {out}/derivatives/truth")
