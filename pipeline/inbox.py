"""The inbox: new images join the project's data, and what cannot be used goes to quarantine with a reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.errors import UserError, printable
from metaldefect.image_files import is_hidden_name
from metaldefect.ingest.adapters.csv_table import find_tables
from metaldefect.ingest.arrivals import Arrival, Refusal, examine_arrivals, sha256
from metaldefect.inspection.layout import GOOD
from pipeline.git_locks import remove_stale_locks
from pipeline.params import Params, load_params
from pipeline.temporary import run_command

INBOX = Path("inbox")
QUARANTINE = Path("quarantine")
UNTOLD = Path(".dvc/tmp/data.new.json")
# Of images on their way: path in the inbox -> path in the project
PLACES = Path(".dvc/tmp/inbox.places.json")
# A file that was written to a moment ago may still be on its way
SETTLE_SECONDS = 20.0
LONGEST_WAIT_SECONDS = 600.0
REASON = ".reason.txt"
TABLE = ".csv"
UNNAMED = "nothing says what it shows: put it in the folder of its class, or name it in the table"
UNREAD = "its first line names no columns path and label, so nothing was read from it"
LISTED = 10


@dataclass(frozen=True)
class Intake:
    """What one look into the inbox did.

    Attributes:
        added: paths in the project of the images that joined its data.
        refused: reason by file name, for what went to quarantine.
        waiting: files that were written too recently to be looked at.
    """

    added: Sequence[str] = ()
    refused: Sequence[tuple[str, str]] = ()
    waiting: int = 0

    def __str__(self) -> str:
        lines = [
            f"{len(self.added)} images added, {len(self.refused)} refused, {self.waiting} still arriving"
        ]
        lines += [f"{name}: {reason}" for name, reason in self.refused[:LISTED]]
        if len(self.refused) > LISTED:
            lines.append(f"and {len(self.refused) - LISTED} more in {QUARANTINE}/")
        return "\n".join(lines)


def take_in(root: Path, settle: float = SETTLE_SECONDS) -> Intake:
    """Move the inbox's images into the project's data or to quarantine, then `dvc add` and commit the data.

    An interrupted intake is finished by the next one: images leave the inbox only once DVC has them, and
    where each was going is written down before it is copied. What the look did is written down too, for
    `untold`: a run that is killed cannot report it.

    Args:
        root: the project's folder.
        settle: seconds since the last write after which a file counts as complete.

    Raises:
        UserError: the project has no folder of its own that images could join.
        TemporaryFailureError: DVC is busy with a run.
    """
    inbox = root / INBOX
    inbox.mkdir(exist_ok=True)
    ages = ages_of(visible_files(inbox))
    young = {path for path, seconds in ages.items() if seconds < settle}
    tables = find_tables(inbox)
    # A mask may come after its image, so all wait until the folder is quiet. A camera never is, but a table
    # has to be read in one go: the next look would miss the images that this one took
    if not ages or (young and (tables or max(ages.values()) < LONGEST_WAIT_SECONDS)):
        return Intake(waiting=len(ages))
    remove_stale_locks(root)
    params = load_params(root / "params.yaml")
    target = data_folder(root, params)
    arrivals, refusals = examine_arrivals(inbox, {GOOD, *params.data.classes}, target, young)
    places = placed_before(root, refusals) | plan_places(arrivals, target)
    note_places(root, places)
    for arrival in arrivals:
        place(arrival, places[arrival.path], target)
    if places:
        track(root, target, len(places))

    seen: list[Arrival | Refusal] = [*arrivals, *refusals]
    in_data = [each for each in seen if each.path in places]
    gone = {path for each in in_data for path in (each.path, each.mask) if path is not None}
    refused = one_per_file(refusal for refusal in refusals if refusal.path not in places)
    going = {path for refusal in refused for path in (refusal.path, refusal.mask)}
    left = [path for path in ages if path.is_file() and path not in {*gone, *going, *young, *tables}]
    refused += [Refusal(path, UNREAD if path.suffix.lower() == TABLE else UNNAMED) for path in left]

    names = [named(root, path) for path in places.values()]
    reasons = [(printable(named(inbox, refusal.path)), printable(refusal.reason)) for refusal in refused]
    note_untold(root, names, reasons)
    remove(*gone)
    for refusal in refused:
        quarantine(root, inbox, refusal)
    if set(visible_files(inbox)) <= set(tables):
        remove(*tables)  # all that they name is in the data or in quarantine
    (root / PLACES).unlink(missing_ok=True)
    return Intake(names, reasons, len(young))


def placed_before(root: Path, refusals: Sequence[Refusal]) -> dict[Path, Path]:
    """Where an interrupted intake put images that are refused now, because the data has them already."""
    record = root / PLACES
    known = read_json(record) if record.is_file() else {}
    found = {
        refusal.path: root / known[name]
        for refusal in refusals
        if (name := named(root / INBOX, refusal.path)) in known
    }
    return {path: there for path, there in found.items() if is_placed(path, there)}


def plan_places(arrivals: Sequence[Arrival], target: Path) -> dict[Path, Path]:
    """Where in the data each image goes; a name that another image has gets part of the hash."""
    places: dict[Path, Path] = {}
    stems: set[tuple[str, str]] = set()
    for arrival in arrivals:
        path = target / arrival.label / arrival.path.name
        if (arrival.label, path.stem.lower()) in stems or taken(path):
            path = path.with_name(f"{path.stem}-{arrival.sha256[:8]}{path.suffix}")
        stems.add((arrival.label, path.stem.lower()))
        places[arrival.path] = path
    return places


def note_places(root: Path, places: Mapping[Path, Path]) -> None:
    """Write down where images go, before the first is copied."""
    if places:
        inbox = root / INBOX
        write_json(root / PLACES, {named(inbox, path): named(root, there) for path, there in places.items()})


def one_per_file(refusals: Iterable[Refusal]) -> list[Refusal]:
    """One refusal per file, with all reasons: a table has one for each row that cannot be used."""
    found: dict[Path, list[Refusal]] = {}
    for refusal in refusals:
        found.setdefault(refusal.path, []).append(refusal)
    return [
        replace(same[0], reason="; ".join(dict.fromkeys(each.reason for each in same)))
        for same in found.values()
    ]


def named(root: Path, path: Path) -> str:
    """A path below a folder, with slashes."""
    return path.relative_to(root).as_posix()


def untold(root: Path) -> Intake:
    """What the looks since the last `forget_untold` did."""
    path = root / UNTOLD
    if not path.is_file():
        return Intake()
    content = read_json(path)
    return Intake(content["added"], [(name, reason) for name, reason in content["refused"]])


def note_untold(root: Path, added: Sequence[str], refused: Sequence[tuple[str, str]]) -> None:
    """Write down what a look did, beside what nobody has been told of before."""
    if added or refused:
        earlier = untold(root)
        content = {
            "added": list(dict.fromkeys([*earlier.added, *added])),
            "refused": list(dict.fromkeys([*earlier.refused, *refused])),
        }
        write_json(root / UNTOLD, content)


def forget_untold(root: Path) -> None:
    """People and automations know."""
    (root / UNTOLD).unlink(missing_ok=True)


def ages_of(paths: Iterable[Path]) -> dict[Path, float]:
    """Seconds since each file last changed; a file that somebody has just taken away has no age."""
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            found[path] = age(path)
    return found


def age(path: Path) -> float:
    """Seconds since a file's content, name or place changed; `cp -p` keeps an old time of the content."""
    status = path.stat(follow_symlinks=False)
    return time.time() - max(status.st_mtime, status.st_ctime)


def is_placed(arrival: Path, place: Path) -> bool:
    """Whether the same file lies at its place in the data."""
    return arrival.is_file() and place.is_file() and sha256(arrival) == sha256(place)


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, without those that file managers leave."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return [
        path for path in found if not any(is_hidden_name(part) for part in path.relative_to(folder).parts)
    ]


def data_folder(root: Path, params: Params) -> Path:
    """The folder of the project's own images, which the adapter `folder` reads.

    Raises:
        UserError: there is none, it lies outside the project, or a stage makes it, so that the next run would
            delete what joins it.
    """
    folders = [dataset.root for dataset in params.merge.datasets if dataset.adapter == "folder"]
    if not folders:
        raise UserError(
            "params.yaml lists no folder of your own images: add {adapter: folder, root: plant} to"
            " merge.datasets, or make a project of your images with `metaldefect new`"
        )
    target = root / params.data.root / folders[0]
    if not target.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{target} lies outside the project, where git and DVC cannot track what joins it: name a folder"
            " inside in data.root, or put the images there yourself"
        )
    for stage, out in made_by_stages(root, params):
        if target.resolve().is_relative_to(out.resolve()):
            raise UserError(
                f"{target.relative_to(root)} is drawn by the stage {stage!r}, which would delete images that"
                " join it: name a folder of your own in data.root"
            )
    return target


def made_by_stages(root: Path, params: Params) -> list[tuple[str, Path]]:
    """The stages' outs: (stage, path)."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outs = [(name, out) for name, stage in stages.items() for out in stage.get("outs", ())]
    paths = [(name, out if isinstance(out, str) else next(iter(out))) for name, out in outs]
    return [(name, root / path.replace("${data.root}", str(params.data.root))) for name, path in paths]


def place(arrival: Arrival, path: Path, target: Path) -> None:
    """Copy an image to its place in the data, after its mask."""
    if arrival.mask is not None:
        copy(arrival.mask, target / "masks" / arrival.label / f"{path.stem}{arrival.mask.suffix}")
    copy(arrival.path, path)


def taken(path: Path) -> bool:
    """Whether an image of this stem exists: its mask would fit both."""
    return path.parent.is_dir() and any(
        other.stem.lower() == path.stem.lower() for other in path.parent.iterdir()
    )


def copy(source: Path, path: Path) -> None:
    """Copy a file atomically."""
    with atomic_file(path) as temporary:
        shutil.copyfile(source, temporary)


def track(root: Path, target: Path, count: int) -> None:
    """`dvc add` the data and commit its `.dvc` file alone, so that a run elsewhere starts from it.

    Raises:
        TemporaryFailureError: DVC is busy.
        UserError: DVC or git refuses.
    """
    name = target.relative_to(root).as_posix()
    run_command(root, [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", name])
    if not (root / ".git").exists():
        return
    ignore = (Path(name).parent / ".gitignore").as_posix()
    files = [f"{name}.dvc", *([ignore] if (root / ignore).is_file() else [])]
    run_command(root, ["git", "add", "--force", "--", *files])
    # An intake that was interrupted here has come as far as git already
    if subprocess.run(["git", "diff", "--cached", "--quiet", "--", *files], cwd=root).returncode == 0:
        return
    known = subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True).returncode == 0
    identity = [] if known else ["-c", "user.name=metaldefect", "-c", "user.email=metaldefect@localhost"]
    message = f"{count} image{'' if count == 1 else 's'} from the inbox"
    # The hooks of people's own commits have nothing to check in a hash
    commit = ["commit", "--quiet", "--no-verify", "--message", message, "--only", "--", *files]
    run_command(root, ["git", *identity, *commit])


def quarantine(root: Path, inbox: Path, refusal: Refusal) -> None:
    """Move a file and its mask to today's quarantine, with the reason in a text file beside it."""
    if not refusal.path.is_file():  # somebody has taken it away meanwhile
        return
    name = refusal.path.relative_to(inbox)
    folder = root / QUARANTINE / datetime.now(UTC).strftime("%Y-%m-%d")
    its_mask = refusal.mask if refusal.mask is not None and refusal.mask.is_file() else None
    names = [name, *([its_mask.relative_to(inbox)] if its_mask else [])]
    places, number = [folder / each for each in names], 1
    while any(place.exists() for place in places):
        number += 1  # image and mask get the same one, so that they still belong together
        places = [folder / each.with_name(f"{each.stem}-{number}{each.suffix}") for each in names]
    target = places[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(refusal.path, target)
    if its_mask:
        mask = places[1]
        mask.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(its_mask, mask)
    target.with_name(target.name + REASON).write_text(f"{refusal.reason}\n", encoding="utf-8")


def remove(*paths: Path | None) -> None:
    """Delete files that are where they belong now."""
    for path in paths:
        if path is not None:
            path.unlink(missing_ok=True)
