"""Which dependencies in `dvc.yaml` are this project's code."""

from __future__ import annotations

from pathlib import Path

PACKAGES = ("metaldefect", "pipeline", "stages", "flows", "app", "benchmarks")


def is_code(dependency: str) -> bool:
    """Whether an entry of `deps` names Python code of the project (a file or a package folder)."""
    return dependency.split("/")[0] in PACKAGES and Path(dependency).suffix in ("", ".py")
