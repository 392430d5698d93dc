"""X-SDD: seven hot-rolled strip defects (X. Feng, X. Gao, L. Luo, 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.folder import read_classes
from metaldefect.ingest.adapters.records import RawSample


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / "datas").is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `datas/<class>/<image>`, or `<class>/<image>` if there is no `datas` folder."""
    folder = files.root / "datas"
    yield from read_classes(files, folder if folder.is_dir() else files.root)
