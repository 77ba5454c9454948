"""What made a map: engine, version, template and count of hypointensities, as its sidecar and the cohort table say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.files.map_names import parse_map_name, realigned_id
from vbmstat.image import storage

NO_SIDECAR = "no sidecar"  # engine and version of a map without sidecar, if other maps have one
GROUP_TEMPLATE = "group_template"  # name and hash of the template that a scan was registered to; standard if missing
WMH_AS = "wmh_as"  # how its tissues count hypointensities; only for scans in which they were looked for


def origins_of_maps(paths: Iterable[Path]) -> pd.DataFrame:
    """What the sidecars of maps say: engine, version, count of hypointensities, template; no columns without any."""
    origins = [origin_of_map(path) for path in paths]
    unknown = dict.fromkeys(("engine", "vbmstat_version"), NO_SIDECAR)
    return pd.DataFrame([(origin or unknown) if any(origins) else {} for origin in origins])


def origin_of_map(path: Path) -> dict[str, str]:
    """Engine and version in a map's sidecar, under its CAT12 or BIDS name; empty without one."""
    parsed = parse_map_name(path.name)
    stems = [path.name] if parsed is None else [parsed.stem, *filter(None, [realigned_id(path.name)])]
    for sidecar in (place for stem in stems for place in (
            path.parent.parent / "report" / f"vbmstat_{stem}.json",
            path.parent / f"{stem}_desc-vbmstat_provenance.json")):  # fmt: skip
        try:
            content = storage.read_json(sidecar)
            origin = {"engine": str(content["engine"]), "vbmstat_version": str(content["versions"]["vbmstat"])}
            found = {WMH_AS: content.get("row", {}).get(WMH_AS), GROUP_TEMPLATE: group_template_of(content)}
            return origin | {name: str(value) for name, value in found.items() if value is not None}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def group_template_of(record: Mapping[str, Any]) -> str | None:
    """Name and hash of the group template in a scan's record; None if it was registered to the standard one."""
    parameters = record.get("parameters")
    template = parameters.get("template") if isinstance(parameters, dict) else None
    return f"{template['name']} {template['sha256'][:12]}" if isinstance(template, dict) else None


def templates_in(table: pd.DataFrame) -> pd.Series:
    """The template of each scan of a table; ``standard`` where it names none."""
    column = table[GROUP_TEMPLATE] if GROUP_TEMPLATE in table else pd.Series(dtype=object, index=table.index)
    return column.astype(object).where(column.notna(), "standard").astype(str)


def refuse_mixed_templates(table: pd.DataFrame) -> None:
    """Refuse scans that were registered to different templates; raises TableError with counts."""
    counts = templates_in(table).value_counts().sort_index()
    if len(counts) > 1:
        counted = ", ".join(f"{name}: {n} scans" for name, n in counts.items())
        msg = f"the scans were registered to different templates ({counted}); preprocess all with one --template"
        raise TableError(msg)
