"""Write `docs/columns.md` from `vbmstat/tables/schema.toml`; a test compares the two.

python docs/columns.py
"""

from __future__ import annotations

import re
from pathlib import Path

from vbmstat.image import storage
from vbmstat.tables.schema import tables

PLACEHOLDER = re.compile(r"<(\w+)>")


def columns_page() -> str:
    """The schema as a page in Markdown: ``docs/columns.md``."""
    lines = [
        "# Every table and column",
        "",
        "Tables are tab-separated, UTF-8, with `n/a` for missing values (BIDS). Each has a data dictionary of the same "
        "name with the suffix `.json`, which says the same as this page; it is made from `vbmstat/tables/schema.toml`.",
        "In R: `read.delim(file, na.strings = \"n/a\", colClasses = c(participant_id = \"character\"))`; in pandas: "
        "`pd.read_csv(file, sep=\"\\t\", dtype={\"participant_id\": str})`.",
    ]  # fmt: skip
    for kind in tables().values():
        lines += ["", f"## {kind.files}", "", f"`vbmstat {kind.command}`; a row is {kind.rows}.", ""]
        lines += ["| column | unit | meaning |", "|---|---|---|"]
        for column in kind.columns:
            meaning = PLACEHOLDER.sub(r"<\1>", column.description).replace("{", "<").replace("}", ">")
            levels = "; ".join(f"{value}: {text}" for value, text in column.levels.items())
            cells = [f"`{column.name}`", column.units, meaning + (f" ({levels})" if levels else "")]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    storage.write_text(Path(__file__).with_suffix(".md"), columns_page())
