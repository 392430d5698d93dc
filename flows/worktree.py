"""A fresh git worktree in which a retraining happens, so that the folder that serves stays as it is.

It lies below `.dvc/tmp`, which git and DVC ignore, and shares the project's DVC cache, MLflow store and
resume checkpoints. Data that git does not hold are hard links to the project's files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path

import yaml

from metaldefect.errors import UserError
from pipeline.run import run_outputs
from pipeline.temporary import run_command

FOLDER = Path(".dvc/tmp/retrain")
SHARED = ("mlruns", ".checkpoints")
IDENTITY = ("-c", "user.name=metaldefect", "-c", "user.email=metaldefect@localhost")


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints.

    Raises:
        UserError: it failed; the message holds its own.
    """
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"git {' '.join(arguments)} in {folder} failed: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")  # a status line may begin with a space


def worktree_path(root: Path, branch: str) -> Path:
    """The worktree's folder."""
    return root / FOLDER / branch.replace("/", "-")


def add_worktree(root: Path, branch: str) -> Path:
    """Check out `branch`, made from the current commit, in a folder of its own, ready to run the pipeline.

    Raises:
        UserError: the project has no commit yet, or the branch exists.
    """
    if git(root, "rev-parse", "--show-prefix"):
        raise UserError(f"{root} is not the top folder of its git repository: retraining needs that")
    tree = worktree_path(root, branch)
    tree.parent.mkdir(parents=True, exist_ok=True)
    git(root, "worktree", "add", "--quiet", "-b", branch, str(tree), "HEAD")
    share_cache(root, tree)
    for name in SHARED:
        (root / name).mkdir(exist_ok=True)
        (tree / name).symlink_to((root / name).resolve(), target_is_directory=True)
    take_changed_data_files(root, tree)
    link_data(root, tree)
    return tree


def share_cache(root: Path, tree: Path) -> None:
    """Let DVC in the worktree use the project's cache, run cache, remotes and other local settings.

    A remote on this machine may have a relative path, which would lead elsewhere from the worktree.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        cache = repo.cache.local_cache_dir
        urls = {name: str(remote.get("url", "")) for name, remote in repo.config["remote"].items()}
    local = root / ".dvc/config.local"
    if local.is_file():
        shutil.copy2(local, tree / ".dvc/config.local")
    from dvc.config import Config as DvcConfig

    with DvcConfig(str(tree / ".dvc")).edit("local") as settings:
        settings.setdefault("cache", {})["dir"] = str(Path(cache).resolve())
        for name, url in urls.items():
            if url and "://" not in url:  # DVC gives the path that it had in the project
                settings.setdefault("remote", {}).setdefault(name, {})["url"] = os.path.abspath(root / url)


def uncommitted(root: Path) -> list[str]:
    """Changed files that the worktree does not see: all but what runs and `dvc add` write."""
    names = [name for name in git(root, "diff", "--name-only", "-z", "HEAD").split("\0") if name]
    with chdir(root):
        written = run_outputs()
    return [
        name
        for name in names
        if not name.endswith((".dvc", ".gitignore"))
        and not any(Path(name).is_relative_to(out) for out in written)
    ]


def take_changed_data_files(root: Path, tree: Path) -> None:
    """Copy `.dvc` files that are new or changed since the last commit: newly added data."""
    listed = git(root, "status", "--porcelain", "--untracked-files=all", "-z", "--", "*.dvc")
    for entry in filter(None, listed.split("\0")):
        source = root / entry[3:]
        if source.is_file():
            target = tree / entry[3:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def add_changed_data(root: Path) -> list[str]:
    """`dvc add` data that DVC tracks and somebody has added to by hand; returns their paths.

    The worktree gets what DVC knows, so files put beside those from the inbox would not count. Data that are
    missing here, as in a fresh clone, stay as they are recorded.

    Raises:
        TemporaryFailureError: DVC is busy with a run.
        UserError: DVC refuses.
    """
    from dvc.repo import Repo

    records = [f"{name}.dvc" for name in raw_dependencies(root) if (root / f"{name}.dvc").is_file()]
    if not records:
        return []
    with Repo(str(root)) as repo:
        found = repo.status(targets=[str(root / record) for record in records])
    changed = sorted(
        path
        for entries in found.values()
        for entry in entries
        if isinstance(entry, dict)
        for path, state in entry.get("changed outs", {}).items()
        if state == "modified"
    )
    for path in changed:
        run_command(root, [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", path])
    return changed


def link_data(root: Path, tree: Path) -> None:
    """Give the worktree every dependency that no stage makes and neither git nor DVC holds, as hard links.

    Links, not a link to the folder: images that arrive during the run must not change its data.
    """
    for name in raw_dependencies(tree):
        if Path(name).is_absolute():
            continue  # the same from everywhere
        source = root / name
        if (tree / f"{name}.dvc").is_file():
            continue  # DVC checks out exactly what the file names
        if source.is_dir():
            link_missing(source, tree / name)
        elif source.is_file() and not (tree / name).exists():
            link_file(source, tree / name)


def raw_dependencies(folder: Path) -> list[str]:
    """The deps in `dvc.yaml` that are outs of no stage, with params filled in; absolute ones stay so."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8")).get("stages", {})
    params_file = folder / "params.yaml"
    params = yaml.safe_load(params_file.read_text(encoding="utf-8")) if params_file.is_file() else {}
    made = {path for entry in stages.values() for path in paths(entry.get("outs", []))}
    needed = [filled(dep, params) for entry in stages.values() for dep in paths(entry.get("deps", []))]
    return sorted({path for path in needed if path not in made})


def paths(entries: Sequence[str | Mapping[str, object]]) -> list[str]:
    """Paths in a list of deps or outs, whose entries may carry options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def filled(template: str, params: Mapping[str, object]) -> str:
    """A path with `${a.b}` replaced by the value in params."""
    while "${" in template:
        before, _, rest = template.partition("${")
        key, _, after = rest.partition("}")
        value: object = params
        for part in key.split("."):
            value = value[part] if isinstance(value, Mapping) else None
        template = f"{before}{value}{after}"
    return template


def link_missing(source: Path, target: Path) -> None:
    """Hard links in `target` to all files of `source` that it lacks."""
    for folder, _, names in os.walk(source, followlinks=True):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (here / name).exists():
                link_file(Path(folder) / name, here / name)


def link_file(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def commit(tree: Path, message: str, also: Sequence[Path] = ()) -> str | None:
    """Commit what the run changed in tracked files, what it wrote anew for git, and `also`, where they exist.

    Returns:
        The commit, or None if nothing differs.
    """
    git(tree, "add", "--update")
    with chdir(tree):
        written = [str(out) for out in run_outputs()]
    # DVC lists its outs in .gitignore files, so only those that belong in git are found
    patterns = ["*.dvc", ":(glob)**/.gitignore", *written]
    listed = git(tree, "ls-files", "-z", "--others", "--exclude-standard", "--", *patterns)
    new = [name for name in listed.split("\0") if name]
    new += [str(path) for path in also if (tree / path).is_file()]
    if new:
        git(tree, "add", "--", *new)
    if not git(tree, "diff", "--cached", "--name-only"):
        return None
    known = subprocess.run(["git", "config", "user.email"], cwd=tree, capture_output=True).returncode == 0
    # The hooks of people's own commits (tests, formatters) have nothing to check in hashes and metrics
    identity = () if known else IDENTITY
    git(tree, *identity, "commit", "--quiet", "--no-verify", "--message", message)
    return git(tree, "rev-parse", "HEAD")


def remove_worktree(root: Path, tree: Path, branch: str) -> None:
    """Remove the folder, and the branch too if it holds no commit of its own."""
    for name in SHARED:  # git must not follow them
        (tree / name).unlink(missing_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    git(root, "worktree", "prune")
    found = subprocess.run(
        ["git", "log", "-1", "--format=%H", branch, "--not", "HEAD", "--"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if found.returncode == 0 and not found.stdout.strip():
        subprocess.run(["git", "branch", "-D", branch], cwd=root, capture_output=True)
