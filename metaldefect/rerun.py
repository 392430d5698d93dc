"""The command that runs the pipeline in a folder, for messages that tell the user what to type."""

from __future__ import annotations

import re
from pathlib import Path

TARGET = re.compile(r"^repro:", re.MULTILINE)


def has_repro_target(root: Path) -> bool:
    """Whether a folder has a Makefile with the target `repro`, as this package's own repository does."""
    makefile = root / "Makefile"
    if not makefile.is_file():
        return False
    # Another project's Makefile may have any encoding
    return TARGET.search(makefile.read_text(encoding="utf-8", errors="replace")) is not None


def repro_command(root: Path) -> str:
    """`make repro` where that exists, else `dvc repro`, as in a project of `metaldefect new`."""
    return "make repro" if has_repro_target(root) else "dvc repro"
