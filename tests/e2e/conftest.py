"""A clone of the project in a temporary folder, with the pipeline run there once for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    """A clone and ways to run things in it."""

    root: Path
    output: str = ""  # of the first run

    @property
    def environment(self) -> dict[str, str]:
        """The test's environment, with the clone's code first and stores inside the clone."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if k == "METALDEFECT_THREADS" or not k.startswith(("METALDEFECT_", "MLFLOW_", "PREFECT_"))
        }
        return kept | {
            "PYTHONPATH": str(self.root),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(self.root / ".prefect"),
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; a failure shows its output."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or done.returncode == 0, (
            f"{command} exited with {done.returncode}:\n{done.stdout[-6000:]}"
        )
        return done

    def dvc(self, *arguments: str, check: bool = True) -> str:
        """Run DVC; its output."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check).stdout

    def lock(self) -> dict:
        """The stages of dvc.lock."""
        return yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]

    def outs(self, stage: str) -> dict[str, str]:
        """MD5 of each out of a stage, from dvc.lock."""
        return {out["path"]: out["md5"] for out in self.lock()[stage]["outs"]}

    def set_param(self, dotted: str, value: object) -> None:
        """Change one value in params.yaml."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        *parents, last = dotted.split(".")
        section = content
        for name in parents:
            section = section[name]
        assert last in section
        section[last] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))


def clone(target: Path, profile: str) -> Project:
    """The tracked files as they are now, committed, with params.yaml composed for a profile."""
    from dvc.utils.hydra import compose_and_dump

    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    (target / "dvc.lock").unlink(missing_ok=True)
    compose_and_dump(
        target / "params.yaml",
        str(target / "conf"),
        None,
        "config",
        str(target / "plugins"),
        [f"profile={profile}"],
    )
    project = Project(target)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "clone")
    return project


def record_stand_ins(project: Project, contents: Mapping[str, str] | None = None) -> None:
    """Let DVC take every stage for done: put a stand-in where it has no out, and record all outs as made.

    Args:
        project: a clone.
        contents: texts of files, by path; they are written before anything is recorded.
    """
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"].values()
    outs = [out if isinstance(out, str) else next(iter(out)) for entry in stages for out in entry["outs"]]
    inside = [dep for entry in stages for dep in entry["deps"] if dep.startswith(("data/", "models/"))]
    # Of parts of outs, such as data/tokens/train, too
    stand_ins = {
        name if Path(name).suffix else f"{name}/stand-in": "{}" if Path(name).suffix else name
        for name in [*outs, *inside]
    }
    for name, text in (stand_ins | dict(contents or {})).items():
        path = project.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project.dvc("commit", "--force")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which `dvc repro` has run once, with the profile tiny."""
    project = clone(tmp_path_factory.mktemp("clone"), "tiny")
    return replace(project, output=project.dvc("repro"))
