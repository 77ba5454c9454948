"""Write `docs/columns.md` from `vbmstat/tables/schema.toml`; a test compares the two.

python docs/columns.py
"""

from __future__ import annotations

from pathlib import Path

from vbmstat.image import storage
from vbmstat.tables.dictionary import columns_page

if __name__ == "__main__":
    storage.write_text(Path(__file__).with_suffix(".md"), columns_page())
