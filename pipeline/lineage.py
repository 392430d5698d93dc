"""Where a stage's inputs come from: every stage upstream, with the hashes of the data it read and wrote.

`dvc.lock` knows this for the last run only. Each stage's MLflow run therefore keeps its own `lineage.json`,
which leads from a deployed detector back to its images, whatever ran since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.code_files import is_code

LINEAGE = "lineage.json"
LOCK = Path("dvc.lock")

Hashes = dict[str, str]


def locked_stages(lock: Path = LOCK) -> dict[str, Any]:
    """The stages in `dvc.lock` by name; empty without a lock file."""
    content = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else None
    return dict((content or {}).get("stages", {}))


def data_hashes(entries: Sequence[Mapping[str, Any]]) -> Hashes:
    """MD5 by path of those deps or outs of a lock entry that are data, not code."""
    return {str(entry["path"]): str(entry.get("md5", "")) for entry in entries if not is_code(entry["path"])}


def trace(stage: str, inputs: Hashes, locked: Mapping[str, Any]) -> dict[str, dict[str, Hashes]]:
    """The stage and all that its inputs come from, nearest first.

    Args:
        stage: the stage that runs now; its outs are not known yet.
        inputs: the hashes of its data.
        locked: the entries of `dvc.lock`.

    Returns:
        By stage: `deps` and `outs`, each with MD5 by path.
    """
    makers = {out["path"]: name for name, entry in locked.items() for out in entry.get("outs", [])}
    found: dict[str, dict[str, Hashes]] = {stage: {"deps": inputs, "outs": {}}}
    todo = [stage]
    while todo:
        for path in found[todo.pop(0)]["deps"]:
            maker = makers.get(path)
            if maker is not None and maker not in found:
                entry = locked[maker]
                found[maker] = {
                    "deps": data_hashes(entry.get("deps", [])),
                    "outs": data_hashes(entry.get("outs", [])),
                }
                todo.append(maker)
    return found
