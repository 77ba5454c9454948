"""``vbmstat glm --share``: the sums of a site's maps as a file, in place of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vbmstat.glm.spec import ModelSpec

_OF_RESULTS = (
    "level", "random", "atlas", "second_atlas", "spm_names", "outside", "out", "report", "scheduler", "stratify",
    "draws", "permutations",
)  # fmt: skip


def refuse_other_options(ctx: typer.Context) -> None:
    """Refuse options that mean nothing beside ``--share``, which writes one file only."""
    given = [
        f"--{name.replace('_', '-')}" for name in _OF_RESULTS
        if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]  # fmt: skip
    if given:
        from vbmstat.errors import DesignError  # noqa: PLC0415 - heavy imports inside the command

        msg = f"--share writes the sums and no results; leave out {', '.join(given)}"
        raise DesignError(msg)


def share_model(path: Path, model: ModelSpec, maps: str | None, table: Path, **how: Any) -> None:
    """Write the sums of a model's maps to a file, and print what is in it; `how` are fields of `Compute`."""
    from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.glm.pooled.file import check_path, write_sums  # noqa: PLC0415
    from vbmstat.glm.pooled.share import share_sums  # noqa: PLC0415
    from vbmstat.glm.spec import Compute  # noqa: PLC0415

    check_path(path)
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        typer.echo(line)

    with stages() as progress:
        sums, notes = share_sums(maps, model, table, Compute(**how, progress=progress, announce=announce))
    for note in notes:
        if note not in said:
            typer.echo(f"note: {note}")
    write_sums(path, sums)
    about = sums.about
    typer.echo(
        f"{path}: sums of {about.n_scans} scans over {sums.space.voxel_index.size} voxels for the columns "
        f"{', '.join(about.columns)}; no ids and no values of single scans, but read what sums tell "
        "(docs/pooling.md) before you send it"
    )
