"""Which of the project's own files a module imports, directly or through others."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("metaldefect", "stages", "flows", "app")


def module_file(name: str) -> Path | None:
    """File of a project module, None for anything else."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = ROOT / Path(*name.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


def direct_imports(file: Path) -> set[Path]:
    """Project files imported anywhere in `file`, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {path for name in names if (path := module_file(name))}
    return found


def all_imports(file: Path) -> set[Path]:
    """`file` and every project file that it needs."""
    seen: set[Path] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        seen.add(current)
        todo |= direct_imports(current) - seen
    return seen
