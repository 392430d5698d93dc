"""The holdout: test images that every detector is compared on, locked by their hashes.

`data/holdout/` has the layout of a prepared dataset, with the test split alone. Its card beside it,
`data/holdout.json`, belongs in git and names every file's hash, so a changed image is noticed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from metaldefect.artifacts import atomic_directory, read_json, sha256_file, write_json
from metaldefect.errors import UserError
from metaldefect.image_files import is_hidden_name
from metaldefect.inspection.layout import LEVELS, read_scenes, write_scenes
from metaldefect.inspection.provider import InspectionImages, RealDatasetProvider

HOLDOUT = Path("data/holdout")
INSPECTION = Path("data/merged/inspection")
TEST = "test/"
LEARNT = ("train/", "validation/", "canvas/")  # splits that shape a detector


def card_path(folder: Path) -> Path:
    """The holdout's card, beside its folder."""
    return folder.with_name(f"{folder.name}.json")


def freeze(source: Path, folder: Path) -> dict[str, Any]:
    """Copy the test split of a prepared dataset into the holdout, and write its card.

    Args:
        source: a prepared dataset, such as `data/merged/inspection`.
        folder: the holdout's folder; one that exists is replaced.

    Returns:
        The card: `sha256`, `images` per label and `files`.

    Raises:
        UserError: the test split does not hold both good and defective images.
    """
    with atomic_directory(folder) as new:
        card = copy_test_split(source, new)
        # A kill from here on leaves no card, so `ensure` finishes the work; an old card would contradict
        card_path(folder).unlink(missing_ok=True)
    write_json(card_path(folder), card)
    return card


def ensure(source: Path, folder: Path) -> dict[str, Any] | None:
    """Make the holdout unless it is there; never replace the images that its card names.

    Args:
        source: a prepared dataset, such as `data/merged/inspection`.
        folder: the holdout's folder.

    Returns:
        The card if the folder was made, else None.

    Raises:
        UserError: the card names other images than the test split of `source`, or that split does not hold
            both good and defective images.
    """
    if not card_path(folder).is_file():
        return freeze(source, folder)
    if folder.is_dir():
        return None
    card: dict[str, Any] = read_json(card_path(folder))
    with atomic_directory(folder) as new:
        if copy_test_split(source, new)["sha256"] != card["sha256"]:
            raise UserError(
                f"{folder} is missing, and today's test split is another than {card_path(folder).name} names:"
                " copy the folder from a backup or another machine. To compare on today's test images from"
                " now on, type `metaldefect holdout`"
            )
    return card


def copy_test_split(source: Path, new: Path) -> dict[str, Any]:
    """Copy the test split of a prepared dataset into an empty folder; returns the card of the copy.

    Raises:
        UserError: the test split does not hold both good and defective images.
    """
    labels = Counter(RealDatasetProvider(source).test().labels)
    if len(labels) < 2 or "good" not in labels:
        raise UserError(
            f"{source} has {dict(labels) or 'no'} test images: comparing detectors takes good and defective"
            " ones. Add some and run the pipeline again"
        )
    for part in ("test", "ground_truth"):
        if (source / part).is_dir():
            shutil.copytree(source / part, new / part)
    shutil.copy2(source / LEVELS, new / LEVELS)
    scenes = read_scenes(source)
    write_scenes(new, {path: scene for path, scene in scenes.items() if path.startswith(TEST)})
    files = content_of(new)
    return {"images": dict(sorted(labels.items())), "sha256": digest(files), "files": files}


def content_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path inside; what file managers leave is no content."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): sha256_file(path)
        for name, path in files.items()
        if not any(is_hidden_name(part) for part in name.parts)
    }


def digest(files: dict[str, str]) -> str:
    """One SHA-256 for all files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_holdout(folder: Path) -> tuple[InspectionImages, str]:
    """The images of the holdout, in colour, and its hash, after checking every file against the card.

    Raises:
        UserError: there is none, or a file is missing, added or changed; the message names the first.
    """
    card = read_json(card_path(folder)) if card_path(folder).is_file() else None
    if card is None or not folder.is_dir():
        raise UserError(
            f"{folder} and {card_path(folder).name} must lie side by side: `metaldefect holdout` makes both"
        )
    found, known = content_of(folder), card["files"]
    for name in sorted(found.keys() | known.keys()):
        if found.get(name) != known.get(name):
            state = "missing" if name not in found else "new" if name not in known else "changed"
            raise UserError(
                f"{folder / name} is {state}: verdicts on different images cannot be compared. Restore it,"
                " or accept the folder as it is with `metaldefect holdout --accept`"
            )
    if digest(found) != card["sha256"]:
        raise UserError(f"{card_path(folder)} contradicts itself: restore it with `git checkout`")
    return RealDatasetProvider(folder, channels=3).test(), str(card["sha256"])


def accept(folder: Path) -> dict[str, Any]:
    """Write the card of a holdout from which images were removed on purpose; returns the card.

    Raises:
        UserError: an image was added: its scene is not known, so nothing says what it has in common with
            training images.
    """
    scenes = read_scenes(folder)
    write_scenes(folder, {path: scene for path, scene in scenes.items() if (folder / path).is_file()})
    files = content_of(folder)
    labels = dict(sorted(Counter(RealDatasetProvider(folder).test().labels).items()))
    card = {"images": labels, "sha256": digest(files), "files": files}
    write_json(card_path(folder), card)
    return card


def leaks(folder: Path, training: Path) -> list[str]:
    """Holdout images that a dataset's training, validation or canvas split shows too.

    An image counts if its file or its scene is there.

    Args:
        folder: the holdout.
        training: the prepared dataset that a detector was trained on.

    Returns:
        Paths inside the holdout, sorted.
    """
    scenes = read_scenes(training)
    learnt = {path for path in scenes if path.startswith(LEARNT)}
    learnt_scenes = {scenes[path] for path in learnt}
    hashes = {sha256_file(training / path) for path in learnt if (training / path).is_file()}
    return sorted(
        path
        for path, scene in read_scenes(folder).items()
        if scene in learnt_scenes or sha256_file(folder / path) in hashes
    )
