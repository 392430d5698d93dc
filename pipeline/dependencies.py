"""`make deps`: write the code that each stage runs into `dvc.yaml`, from its actual imports.

A stage depends on every project file that its module imports, directly or indirectly, and on no other.
Shared plumbing is left out: it decides how a run is tracked and shown, never what it computes.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.code_files import PACKAGES, is_code

DVC_FILE = "dvc.yaml"
# It gathers the settings of all stages. A stage imports by itself the settings that it works with.
PARAMS = "pipeline/params.py"
# Typed params (DVC itself tracks each stage's values), tracking, and terminal output.
PLUMBING = frozenset(
    {
        PARAMS,
        "pipeline/dead_runs.py",
        "pipeline/code_files.py",
        "pipeline/lineage.py",
        "pipeline/run.py",
        "pipeline/store_paths.py",
        "metaldefect/terminal.py",
        "stages/__init__.py",
    }
)
# A package that finds its plug-in modules contains this call.
DISCOVERY = "pkgutil.iter_modules(__path__)"
# Stages whose output the plumbing draws, so they depend on it.
SHOWS = frozenset({"report"})


def module_file(root: Path, name: str) -> Path | None:
    """File of a project module, or None for any other module."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = root / Path(*name.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


def direct_imports(root: Path, file: Path) -> set[Path]:
    """Project files that `file` imports, also inside functions, and the packages that contain them.

    A package that lists its modules with `pkgutil.iter_modules(__path__)` counts as importing all of them.
    """
    text = file.read_text(encoding="utf-8")
    found = set(file.parent.glob("*.py")) - {file} if DISCOVERY in text else set()
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            parents = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
            found |= {path for parent in parents if (path := module_file(root, parent))}
    return found


def all_imports(root: Path, file: Path) -> set[Path]:
    """`file` and all project files that it imports, directly or not; those of `PARAMS` do not count."""
    seen: set[Path] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        seen.add(current)
        if current.relative_to(root).as_posix() != PARAMS:
            todo |= direct_imports(root, current) - seen
    return seen


def has_code(file: Path) -> bool:
    """Whether a module holds more than a docstring."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def code_dependencies(root: Path, stage: str) -> list[str]:
    """The project files that a stage's outs depend on: sorted POSIX paths relative to `root`."""
    files = all_imports(root, root / f"stages/{stage}.py")
    names = {file.relative_to(root).as_posix() for file in files if has_code(file)}
    return sorted(names if stage in SHOWS else names - PLUMBING)


def with_code_dependencies(root: Path) -> str:
    """The text of `dvc.yaml` with the code dependencies that the current imports require."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load((root / DVC_FILE).read_text(encoding="utf-8"))
    for stage, entry in content["stages"].items():
        deps = entry.setdefault("deps", [])
        others = [name for name in deps if not is_code(name)]
        deps[:] = others + code_dependencies(root, stage)
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Write `dvc.yaml`, or with `--check` report whether it is up to date; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.dependencies", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it would change")
    options = parser.parse_args(arguments)
    file = Path(DVC_FILE)
    wanted = with_code_dependencies(Path().resolve())
    if wanted == file.read_text(encoding="utf-8"):
        return 0
    if options.check:
        print(f"{file} does not list the code that its stages import: run `make deps`", file=sys.stderr)
        return 1
    file.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
