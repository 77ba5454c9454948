"""The inputs of a recorded model again: its table, maps and atlases, found by name and sha256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbmstat.assets.provenance import find_file
from vbmstat.errors import DesignError, VbmstatError
from vbmstat.glm.spec import ModelSpec


@dataclass(frozen=True)
class Recorded:
    """A model of ``glm.json`` and where its inputs are now."""

    spec: ModelSpec
    cohort: Path  # its table
    maps: Path | None  # folder of its maps; None if the table has their paths
    # the atlas that names places or is measured, and the second one; ``none``, or None for one in memory
    atlases: tuple[str | None, str | None]
    # ``voxel``, ``roi`` or ``region``; the column of the random effect, if there is one
    level: str
    random: str | None
    small_volumes: tuple[str, ...]  # volumes that were looked at on their own


def find_model(
    record: Mapping[str, Any], path: Path, inputs: Sequence[Path] = (), *, table_may_differ: bool = False
) -> Recorded:
    """Find the inputs of a recorded model.

    Parameters
    ----------
    record : mapping
        Content of ``glm.json``.
    path : Path
        Its path.
    inputs : sequence of Path
        Folders with table and maps; by default those around the results.
    table_may_differ : bool
        Take a table of the recorded name if none has the recorded content; the caller compares the design.

    Raises
    ------
    VbmstatError
        If the record is damaged or of an older version, the data were in memory, or an input is not found.
    """
    places = list(inputs) or [*path.absolute().parent.parents[:3], Path()]
    try:
        spec = ModelSpec.from_record(record["spec"], lambda name, digest: find_file(name, digest, places))
        table, maps, outputs = record["data"]["table"], record["data"]["maps"], record["outputs"]
        if isinstance(maps, Mapping) and not record["maps"]:
            raise KeyError
    except (KeyError, TypeError, ValueError, AttributeError, DesignError) as error:
        msg = f"{path}: expected the record of a model (spec, data, outputs); it is damaged or older than that"
        raise VbmstatError(msg) from error
    if table is None or maps is None or outputs.get("atlas") is None:
        msg = f"{path}: its table, maps or atlas were in memory, not in files: run the script that made them"
        raise VbmstatError(msg)
    cohort = find_file(table["file"], table["sha256"], places, may_differ=table_may_differ)
    folder = None
    if maps != "table":  # the folder of this name that holds one of the recorded maps
        entry = next(iter(record["maps"].values()))
        parents = find_file(entry["path"], entry["sha256"], places).absolute().parents
        folder = next((parent for parent in parents if parent.name == maps["folder"]), parents[0])
    first, second, *volumes = (
        str(find_file(one["file"], one["sha256"], places)) if isinstance(one, Mapping) else one
        for one in (outputs["atlas"], outputs.get("second_atlas", "none"), *record.get("small_volumes", []))
    )
    level = record.get("level", "voxel")
    return Recorded(spec, cohort, folder, (first, second), level, record.get("random"), tuple(volumes))
