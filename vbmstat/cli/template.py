"""``vbmstat template``: a template of a group, for ``vbmstat preprocess --template``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vbmstat.cli.scans import Exclude, Exclusions, Tables, Where, selection

if TYPE_CHECKING:
    from vbmstat.batch.template_levels import OrderedMap


def command(
    cohort: Annotated[Path, typer.Argument(help="Output folder of vbmstat preprocess, or the cohort.tsv in it.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the template; a run that was stopped goes on in it.")],
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Make left and right alike: each person also counts mirrored.")
    ] = False,
    participants: Tables = None,
    exclude: Exclude = None,
    where: Where = None,
    exclusions: Exclusions = True,
    jobs: Annotated[int, typer.Option(help="People at once.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on a dask cluster: local, slurm (--jobs of them), or a scheduler's address.")
    ] = None,
) -> None:
    """Make a template of ten or more preprocessed people, e.g. of young children; most studies need none.

    Exit code: 0 all people are in it, 1 some were left out (see people.tsv).
    """
    from vbmstat.batch.group_template import TemplateSpec, build_template  # noqa: PLC0415 - heavy imports
    from vbmstat.cli.progress import stages  # noqa: PLC0415

    spec = TemplateSpec(symmetric, selection(exclude, where, participants, exclusions))
    with stages() as report, _mapping(jobs, scheduler, out) as mapping:
        built = build_template(cohort, out, spec, mapping, report)
    first, *_, last = built.record["levels"]
    gain = last["gradient_energy"] / first["gradient_energy"]
    n = len(built.record["people"]) - len(built.left_out)
    typer.echo(f"template of {n} people in {out}, look at levels.png; gradient energy {gain:.1f} times that of level 0")
    typer.echo(f"mean displacement {last['mean_displacement_mm']:.3f} mm; next: vbmstat preprocess … --template {out}")
    for stem, reason in built.left_out.items():
        typer.echo(f"{stem}: left out, {reason}", err=True)
    if built.left_out:
        raise typer.Exit(1)


@contextmanager
def _mapping(jobs: int, scheduler: str | None, out: Path) -> Iterator[OrderedMap]:
    """An ordered map over people: of a cluster, of processes here, or of this process."""
    from vbmstat.batch.workers import local_workers, stop  # noqa: PLC0415 - heavy imports
    from vbmstat.device import n_cores  # noqa: PLC0415
    from vbmstat.distributed.start import open_cluster  # noqa: PLC0415

    threads = max(n_cores() // jobs, 1)
    with open_cluster(scheduler, workers=jobs, cores=threads, folder=out / "slurm") as cluster:
        if cluster is not None:
            yield cluster.map
        elif jobs == 1:
            yield map
        else:
            with local_workers(jobs, threads) as workers:
                executor = workers.make(jobs)
                try:
                    yield executor.map
                finally:
                    stop(executor)
