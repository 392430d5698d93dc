"""The inbox: new images join the project's data, and what cannot be used goes to quarantine with a reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.errors import UserError, printable
from metaldefect.image_files import is_hidden_name
from metaldefect.ingest.arrivals import Arrival, Refusal, examine_arrivals, sha256
from metaldefect.inspection.layout import GOOD
from pipeline.git_locks import remove_stale_locks
from pipeline.params import Params, load_params
from pipeline.temporary import TemporaryFailureError, is_temporary

INBOX = Path("inbox")
QUARANTINE = Path("quarantine")
UNTOLD = Path(".dvc/tmp/data.new.json")
# A file that was written to a moment ago may still be on its way
SETTLE_SECONDS = 20.0
LONGEST_WAIT_SECONDS = 600.0
REASON = ".reason.txt"
TABLE = ".csv"
UNNAMED = "nothing says what it shows: put it in the folder of its class, or name it in the table"
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

    An interrupted intake is finished by the next one: images leave the inbox only once DVC has them. What it
    did is written down first, for `untold`: a run that is killed cannot report it.

    Args:
        root: the project's folder.
        settle: seconds since the last write after which a file counts as complete.

    Raises:
        UserError: the project has no folder of its own that images could join.
        TemporaryFailureError: DVC is busy with a run.
    """
    inbox = root / INBOX
    inbox.mkdir(exist_ok=True)
    ages = {path: age(path) for path in visible_files(inbox)}
    young = {path for path, seconds in ages.items() if seconds < settle}
    # A mask may come after its image, so all wait until the folder is quiet; a camera never is
    if not ages or (young and max(ages.values()) < LONGEST_WAIT_SECONDS):
        return Intake(waiting=len(ages))
    remove_stale_locks(root)
    params = load_params(root / "params.yaml")
    target = data_folder(root, params)
    arrivals, refusals = examine_arrivals(inbox, {GOOD, *params.data.classes}, target, young)
    # An interrupted intake left these in the data, where they would be placed now
    placed = {refusal.path: target / refusal.path.relative_to(inbox) for refusal in refusals}
    placed = {path: there for path, there in placed.items() if is_placed(path, there)}
    added = [place(arrival, target) for arrival in arrivals]
    earlier = untold(root)
    note_untold(root, earlier, [named(root, path) for path in added])
    if added or placed:
        if not track(root, target, len(added) + len(placed)):  # the interrupted intake came as far as git
            placed = {path: there for path, there in placed.items() if named(root, there) in earlier.added}
        added += placed.values()
        done = [refusal for refusal in refusals if refusal.path in placed]
        refusals = [refusal for refusal in refusals if refusal.path not in placed]
        remove(*(each.path for each in arrivals), *(each.mask for each in arrivals))
        remove(*(each.path for each in done), *(each.mask for each in done))
    going = {refusal.path for refusal in refusals} | {refusal.mask for refusal in refusals}
    left = [path for path in ages if path.is_file() and path not in young | going]
    refusals = [
        *refusals,
        *(Refusal(path, UNNAMED) for path in left if path.suffix.lower() != TABLE),
    ]
    names = [named(root, path) for path in added]
    reasons = [(printable(named(inbox, refusal.path)), printable(refusal.reason)) for refusal in refusals]
    note_untold(root, earlier, names, reasons)
    for refusal in refusals:
        quarantine(root, inbox, refusal)
    if all(path.suffix.lower() == TABLE for path in visible_files(inbox)):
        remove(*visible_files(inbox))  # their images are in the data now
    return Intake(names, reasons, len(young))


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


def note_untold(
    root: Path, earlier: Intake, added: Sequence[str], refused: Sequence[tuple[str, str]] = ()
) -> None:
    """Write down what a look does, beside what nobody has been told of before."""
    if added or refused:
        content = {
            "added": list(dict.fromkeys([*earlier.added, *added])),
            "refused": list(dict.fromkeys([*earlier.refused, *refused])),
        }
        write_json(root / UNTOLD, content)


def forget_untold(root: Path) -> None:
    """People and automations know."""
    (root / UNTOLD).unlink(missing_ok=True)


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
        UserError: there is none, or a stage makes it, so that the next run would delete what joins it.
    """
    folders = [dataset.root for dataset in params.merge.datasets if dataset.adapter == "folder"]
    if not folders:
        raise UserError(
            "params.yaml lists no folder of your own images: add {adapter: folder, root: plant} to"
            " merge.datasets, or make a project of your images with `metaldefect new`"
        )
    target = root / params.data.root / folders[0]
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


def place(arrival: Arrival, target: Path) -> Path:
    """Copy an image and its mask to the data; a name that another image has gets part of the hash."""
    folder = target / arrival.label
    path = folder / arrival.path.name
    if taken(path):
        path = folder / f"{arrival.path.stem}-{arrival.sha256[:8]}{arrival.path.suffix}"
    if arrival.mask is not None:
        copy(arrival.mask, target / "masks" / arrival.label / f"{path.stem}{arrival.mask.suffix}")
    copy(arrival.path, path)
    return path


def taken(path: Path) -> bool:
    """Whether an image of this stem exists: its mask would fit both."""
    return path.parent.is_dir() and any(
        other.stem.lower() == path.stem.lower() for other in path.parent.iterdir()
    )


def copy(source: Path, path: Path) -> None:
    """Copy a file atomically."""
    with atomic_file(path) as temporary:
        shutil.copyfile(source, temporary)


def track(root: Path, target: Path, count: int) -> bool:
    """`dvc add` the data and commit its `.dvc` file alone, so that a run elsewhere starts from it.

    Returns:
        Whether anything was new to DVC or git.

    Raises:
        TemporaryFailureError: DVC is busy.
        UserError: DVC or git refuses.
    """
    name = target.relative_to(root).as_posix()
    record = root / f"{name}.dvc"
    before = record.read_bytes() if record.is_file() else None
    run(root, [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", name])
    is_new = record.read_bytes() != before
    if not (root / ".git").exists():
        return is_new
    ignore = (Path(name).parent / ".gitignore").as_posix()
    files = [f"{name}.dvc", *([ignore] if (root / ignore).is_file() else [])]
    run(root, ["git", "add", "--force", "--", *files])
    # An intake that was interrupted here has given its images to DVC, and their hash to nobody
    if subprocess.run(["git", "diff", "--cached", "--quiet", "--", *files], cwd=root).returncode == 0:
        return is_new
    known = subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True).returncode == 0
    identity = [] if known else ["-c", "user.name=metaldefect", "-c", "user.email=metaldefect@localhost"]
    message = f"{count} image{'' if count == 1 else 's'} from the inbox"
    # The hooks of people's own commits have nothing to check in a hash
    commit = ["commit", "--quiet", "--no-verify", "--message", message, "--only", "--", *files]
    run(root, ["git", *identity, *commit])
    return True


def run(root: Path, command: list[str]) -> None:
    """Run a command; its failure becomes one message."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return
    output = (done.stderr or done.stdout).strip()
    text = f"{' '.join(command[-4:])} ended with {done.returncode}: {output}"
    raise TemporaryFailureError(text) if is_temporary(done.returncode, output) else UserError(text)


def quarantine(root: Path, inbox: Path, refusal: Refusal) -> None:
    """Move a file and its mask to today's quarantine, with the reason in a text file beside it."""
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
