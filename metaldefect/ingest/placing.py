"""Where each image goes in the merged dataset: its group, scene, split and name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from metaldefect.artifacts import write_json
from metaldefect.ingest.examine import Examined
from metaldefect.ingest.groups import Pair, first_of_each
from metaldefect.ingest.samples import unique_names
from metaldefect.ingest.scenes import links_by
from metaldefect.ingest.splits import assign_splits
from metaldefect.ingest.windows import WINDOWS, Window


@dataclass(frozen=True)
class Placed:
    """An image and its place in the merged dataset.

    `name` is `<label>/<file stem>`; `window` is the part of the photograph that is used, None: all of it.
    """

    item: Examined
    name: str
    group: str
    scene: str
    split: str
    window: Window | None


def place_images(
    examined: Sequence[Examined],
    pairs: Sequence[Pair],
    links: Sequence[tuple[int, int]],
    drop_duplicates: bool,
    seed: int,
    shares: tuple[float, float],
) -> tuple[list[Placed], list[str]]:
    """Assign group, scene, split and name to every image that is kept, and to every window of a photograph.

    A group's or scene's key is the hash of its first image in the datasets' order. Adding a duplicate later
    in that order therefore changes neither key nor split.

    Args:
        examined: all images.
        pairs: near-duplicates among them, by index.
        links: further images of one scene, by index.
        drop_duplicates: keep only the first image of each group.
        seed: of the splits.
        shares: expected shares of the scenes in the validation and the test split.

    Returns:
        The images, sorted by name, and the keys of scenes that `assign_splits` moved.
    """
    group = first_of_each(len(examined), [pair for pair in pairs if pair.same_photograph]).tolist()
    scene = first_of_each(len(examined), [*pairs, *links]).tolist()
    kept = [
        (n, number)
        for n, item in enumerate(examined)
        if not drop_duplicates or group[n] == n
        for number in range(max(1, len(item.windows)))
    ]
    items = [examined[n] for n, _ in kept]
    windows = [
        item.windows[number] if item.windows else None for item, (_, number) in zip(items, kept, strict=True)
    ]
    groups = [examined[group[n]].source_sha256[:16] for n, _ in kept]
    scenes = [examined[scene[n]].source_sha256[:16] for n, _ in kept]
    labels = [item.label for item in items]
    splits, moved = assign_splits(scenes, labels, seed, *shares)
    names = names_of(
        items, [number if window else None for window, (_, number) in zip(windows, kept, strict=True)]
    )
    placed = map(Placed, items, names, groups, scenes, splits, windows)
    return sorted(placed, key=lambda one: one.name), moved


def photographs_of_several_classes(
    examined: Sequence[Examined], pairs: Sequence[Pair]
) -> list[list[Examined]]:
    """The images of each photograph that is filed under several classes."""
    copies = [pair for pair in pairs if pair.same_photograph]
    equal = links_by([item.source_sha256 for item in examined])
    images: dict[int, list[Examined]] = {}
    for item, first in zip(examined, first_of_each(len(examined), [*copies, *equal]).tolist(), strict=True):
        images.setdefault(first, []).append(item)
    return [found for found in images.values() if len({item.label for item in found}) > 1]


def class_notes(photographs: Sequence[Sequence[Examined]], drop_duplicates: bool) -> list[str]:
    """What the user should know about photographs that are filed under several classes."""
    if not photographs:
        return []
    one = photographs[0][0]
    other = next(item for item in photographs[0] if item.label != one.label)
    files = " and ".join(f"{item.raw.source}/{item.source_path} ({item.label})" for item in (one, other))
    kept = "; only the first image of each is kept, with its class" if drop_duplicates else ""
    return [f"photographs that are filed under several classes: {len(photographs)}, such as {files}{kept}"]


def names_of(items: Sequence[Examined], numbers: Sequence[int | None]) -> list[str]:
    """Name each image `<label>/<source>_<stem>`, unique also for file systems that ignore case.

    The windows of a photograph have their number behind the stem.
    """
    ends = ["" if number is None else f"_w{number}" for number in numbers]
    plain = [f"{item.raw.source}_{item.raw.path.stem}{end}" for item, end in zip(items, ends, strict=True)]
    names = unique_names(
        [f"{label_key(item.label)}/{name}" for item, name in zip(items, plain, strict=True)],
        [f"{item.raw.source}/{item.source_path}{end}" for item, end in zip(items, ends, strict=True)],
    )
    return [f"{item.label}/{name.rpartition('/')[2]}" for item, name in zip(items, names, strict=True)]


def label_key(label: str) -> str:
    """A label without characters that `unique_names` would replace; different labels stay different."""
    return label.encode().hex()


def write_window_sides(folder: Path, placed: Sequence[Placed]) -> None:
    """Write the median side in pixels of each class that mostly has windows into `windows.json`, if any."""
    sides: dict[str, list[int | None]] = {}
    for one in placed:
        sides.setdefault(one.item.label, []).append(one.window.side if one.window else None)
    usual = {}
    for label, found in sorted(sides.items()):
        cut = [side for side in found if side is not None]
        if 2 * len(cut) > len(found):
            usual[label] = round(median(cut))
    if usual:
        write_json(folder / WINDOWS, usual)


def window_notes(placed: Sequence[Placed]) -> list[str]:
    """What was cut out of photographs, one note per dataset."""
    found = []
    for source in dict.fromkeys(one.item.raw.source for one in placed if one.window):
        cut = [one for one in placed if one.window and one.item.raw.source == source]
        photographs = {one.item.source_path for one in cut}
        found.append(
            f"{source}: {len(cut)} windows were cut around the small defects of photographs"
            f" ({len(photographs)}), so that they are learnt at their own scale"
        )
    return found
