"""`python -m pipeline.code_version`: the stage `code` of a project that `metaldefect new` made.

Such a project calls the stages of the installed package, so that its `dvc.yaml` cannot name their code as
files. `code.yaml` stands for it: the package's version, and a digest of the code and the shipped weights of
each stage. Every stage has its own digest among its params. An upgrade that changes a stage reruns it, and
leaves the others alone.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import yaml

from metaldefect.artifacts import atomic_file
from pipeline.code_files import PACKAGES

INSTALLED = Path(__file__).parents[1]  # holds the packages
STAGES = Path(__file__).parent / "project/stages.yaml"  # dvc.yaml of this package
CODE = Path("code.yaml")


def in_package(dependency: str) -> bool:
    """Whether an entry of `deps` is part of the installed package."""
    return dependency.split("/")[0] in PACKAGES


def code_digests(installed: Path = INSTALLED) -> dict[str, str]:
    """The package's version, and by stage 16 hexadecimal digits of SHA-256 of what it runs."""
    stages = yaml.safe_load(STAGES.read_text(encoding="utf-8"))["stages"]
    digests = {"version": version("metaldefect")}
    for stage, entry in stages.items():
        digest = hashlib.sha256()
        for name in sorted(filter(in_package, entry["deps"])):
            digest.update(f"{name} {hashlib.sha256((installed / name).read_bytes()).hexdigest()}\n".encode())
        digests[stage] = digest.hexdigest()[:16]
    return digests


if __name__ == "__main__":
    with atomic_file(CODE) as temporary:
        temporary.write_text(yaml.safe_dump(code_digests(), sort_keys=False), encoding="utf-8")
