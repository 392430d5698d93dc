"""The champion: the bundle that serves, replaced by one atomic rename, and the way back.

`models/bundles/<version>/` holds bundles, each complete before it gets its name and never changed after.
`models/champion` and `models/challenger` are links to them, and a link is replaced by one rename: whoever
opens the path has the old bundle or the new one, whole. `models/champions.jsonl` lists what served and why.
The link is the truth; the list may lack the newest entry if a process was killed between the two.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metaldefect.artifacts import atomic_directory, atomic_file, working_directory
from metaldefect.deploy.bundle import bundle_version
from metaldefect.errors import UserError

CHAMPION = Path("models/champion")
CHALLENGER = Path("models/challenger")
BUNDLES = Path("models/bundles")
HISTORY = Path("models/champions.jsonl")
KEPT = 5  # bundles besides champion, challenger and the previous champion


def current(root: Path, link: Path = CHAMPION) -> Path | None:
    """The bundle that a link leads to, or None if there is none.

    Raises:
        UserError: the link leads to nothing: taking that for "none yet" would let any detector serve.
    """
    place = root / link
    if place.is_symlink() and not place.exists():
        raise UserError(
            f"{place} leads to {os.readlink(place)}, which is gone: restore that folder, or delete the link"
        )
    return place.resolve() if place.exists() else None


def store(root: Path, bundle: Path) -> Path:
    """Copy a bundle to `models/bundles/<version>`; one that is there already stays."""
    target = root / BUNDLES / bundle_version(bundle)
    if not target.is_dir():
        with atomic_directory(target) as folder:
            shutil.copytree(bundle, folder, dirs_exist_ok=True)
    return target.resolve()  # as `current` gives it


def point(root: Path, link: Path, bundle: Path) -> None:
    """Let a link lead to a stored bundle, by one rename.

    Raises:
        UserError: a real folder stands where the link belongs.
    """
    place = root / link
    if place.is_dir() and not place.is_symlink():
        raise UserError(f"{place} is a folder, not a link: move it away, it was not made by this project")
    with working_directory(place) as folder:
        made = folder / place.name
        made.symlink_to(os.path.relpath(bundle, place.parent), target_is_directory=True)
        os.replace(made, place)


def promote(root: Path, bundle: Path, why: Mapping[str, Any]) -> str | None:
    """Make a bundle the champion.

    Args:
        root: the project's folder.
        bundle: the bundle; it is stored first.
        why: goes into the list, such as the verdict and its reason.

    Returns:
        The version of the champion before, or None if there was none.
    """
    stored = store(root, bundle)
    before = current(root)
    if before != stored:
        remember_current(root, before)
        point(root, CHAMPION, stored)
        remember(root, {"version": stored.name, "action": "promote", **why})
    if current(root, CHALLENGER) == stored:
        (root / CHALLENGER).unlink()
    prune(root)
    return before.name if before is not None else None


def hold(root: Path, bundle: Path) -> None:
    """Keep a bundle as the challenger, which can run in the champion's shadow."""
    point(root, CHALLENGER, store(root, bundle))
    prune(root)


def rollback(root: Path) -> tuple[str, str]:
    """Let the previous champion serve again; a second rollback goes forward again.

    Returns:
        (version that served, version that serves now).

    Raises:
        UserError: there is no champion, or no earlier one is left.
    """
    now = current(root)
    if now is None:
        raise UserError(f"{root / CHAMPION} does not exist: nothing was promoted yet")
    before = previous(root)
    if before is None:
        raise UserError(f"{root / CHAMPION} is the first champion: there is none to go back to")
    remember_current(root, now)
    point(root, CHAMPION, before)
    remember(root, {"version": before.name, "action": "rollback", "from": now.name})
    return now.name, before.name


def previous(root: Path) -> Path | None:
    """The bundle that served before the champion, if it is still stored."""
    now = current(root)
    for entry in reversed(history(root)):
        folder = (root / BUNDLES / entry["version"]).resolve()
        if folder != now and folder.is_dir():
            return folder
    return None


def history(root: Path) -> list[dict[str, Any]]:
    """What served, oldest first."""
    path = root / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def remember(root: Path, entry: Mapping[str, Any]) -> None:
    """Append an entry to the list of champions."""
    timed = {"time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), **entry}
    lines = [json.dumps(item, sort_keys=True) for item in [*history(root), timed]]
    with atomic_file(root / HISTORY) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def remember_current(root: Path, now: Path | None) -> None:
    """Complete the list if a process was killed after its rename."""
    listed = history(root)
    if now is not None and (not listed or listed[-1]["version"] != now.name):
        remember(root, {"version": now.name, "action": "found"})


def prune(root: Path) -> None:
    """Delete the oldest bundles that nothing leads to; the newest `KEPT` stay."""
    needed = {current(root), current(root, CHALLENGER), previous(root)}
    folders = [path for path in (root / BUNDLES).iterdir() if path.is_dir() and not path.name.startswith(".")]
    spare = sorted(
        (path for path in folders if path.resolve() not in needed), key=lambda p: p.stat().st_mtime
    )
    for path in spare[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
