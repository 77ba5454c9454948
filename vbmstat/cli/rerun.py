"""``vbmstat rerun``: run again what made a result, and compare the bytes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vbmstat.rerun import Compared


def command(
    record: Annotated[Path, typer.Argument(help="report/vbmstat_NAME.json of preprocess, or glm.json of glm.")],
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Folder with the inputs; found by name and sha256. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the new outputs here; else they are deleted.")] = None,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Run although versions, machine or device differ.")
    ] = False,
) -> None:
    """Run a command again with the same parameters and inputs, and compare the outputs; exit code 1 if one differs."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.rerun import differences, read_record, rerun_scan  # noqa: PLC0415

    content = read_record(record)
    changed = differences(content)
    for line in changed:
        typer.echo(f"not as it was: {line}")
    if changed and not any_version:
        msg = f"{record}: {len(changed)} things are not as they were; install those versions, or say --any-version"
        raise VbmstatError(msg)
    with _folder(out) as folder:
        if content["command"] == "preprocess":
            compared = rerun_scan(content, record, inputs or [], folder)
        else:
            compared = _rerun_glm(content, record, inputs or [], folder)
        _tell(compared, folder if out else None)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with TemporaryDirectory(prefix="vbmstat-rerun-") as folder:
        yield Path(folder)


def _rerun_glm(content: Mapping[str, Any], record: Path, inputs: Sequence[Path], out: Path) -> list[Compared]:
    """The same command line with the inputs where they are now."""
    from vbmstat.cli import app  # noqa: PLC0415 - it imports this module
    from vbmstat.errors import VbmstatError  # noqa: PLC0415
    from vbmstat.rerun import compare_outputs, read_record  # noqa: PLC0415

    if "call" not in content:
        msg = f"{record}: made from Python or by an older version, without the command's parameters; run it as you did"
        raise VbmstatError(msg)
    folder = record.absolute().parent
    places = list(inputs) or [*folder.parents[:3], Path()]
    arguments = glm_arguments(content, places)
    typer.echo(f"vbmstat {shlex.join(arguments)}")
    app([*arguments, "--out", str(out)], standalone_mode=False)
    now = read_record(out / "glm.json")["maps"]
    for scan, entry in content["maps"].items():
        if now.get(scan, {}).get("sha256") != entry["sha256"]:
            typer.echo(f"not as it was: the map of {scan}")
    return compare_outputs(folder, out, _comparable(folder, out))


def _comparable(before: Path, now: Path) -> list[str]:
    """Files of a model: what is there now, and what was there before beside pages made from it."""
    names = {path.relative_to(now).as_posix() for path in now.rglob("*") if path.is_file()}
    return sorted(names | {path.name for path in before.glob("contrast-*") if path.is_file()})


def glm_arguments(content: Mapping[str, Any], places: Sequence[Path]) -> list[str]:
    """Arguments of ``vbmstat glm`` from the record of a model."""
    from typer.main import get_command  # noqa: PLC0415

    from vbmstat.cli import app  # noqa: PLC0415 - it imports this module
    from vbmstat.cli.glm import NOT_RECORDED  # noqa: PLC0415

    call = content["call"]
    glm = get_command(app).commands["glm"]  # type: ignore[attr-defined]
    first, options = [], []
    for parameter in glm.params:
        value = call.get(parameter.name)
        if value is None or parameter.name in NOT_RECORDED:  # a record from elsewhere must not choose where we write
            continue
        values = [_located(one, content, places) for one in (value if isinstance(value, list) else [value])]
        if parameter.param_type_name == "argument":
            first += values
        elif isinstance(value, bool):
            options += [(parameter.opts if value else parameter.secondary_opts or [""])[0]]
        else:
            options += [text for one in values for text in (parameter.opts[0], one)]
    return ["glm", *first, *filter(None, options)]


def _located(value: Any, content: Mapping[str, Any], places: Sequence[Path]) -> str:
    """A parameter as it is typed; files and folders where they are now."""
    from vbmstat.assets.provenance import find_file  # noqa: PLC0415

    if isinstance(value, dict) and "file" in value:
        return str(find_file(value["file"], value["sha256"], places).absolute())
    if isinstance(value, dict):
        entry = next(iter(content["maps"].values()))
        found = find_file(entry["path"], entry["sha256"], places)
        above = next((folder for folder in found.absolute().parents if folder.name == value["folder"]), found.parent)
        return str(above)
    return str(value)


def _tell(compared: Sequence[Compared], kept: Path | None) -> None:
    for one in compared:
        if one.status != "same bytes":
            typer.echo(f"{one.status}: {one.name}" + (f" ({one.detail})" if one.detail else ""))
    same = sum(one.status == "same bytes" for one in compared)
    where = f"; new outputs in {kept}" if kept else ""
    typer.echo(f"{same} of {len(compared)} files have the same bytes{where}")
    if same < len(compared):
        raise typer.Exit(1)
