"""The last verdict and what it was about: the same data, settings and code need no second training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flows.worktree import raw_dependencies
from metaldefect.artifacts import read_json, write_json
from metaldefect.config import Config
from pipeline.champion import CHALLENGER, CHAMPION, current, history
from pipeline.code_version import code_digests
from pipeline.gate.holdout import HOLDOUT, card_path
from pipeline.run import content_hash

LAST = Path("reports/retrain/last.json")
PENDING = Path("reports/retrain/pending.json")
DONE = {"PROMOTE": "promoted, and replaced since", "HOLD": "held", "REJECT": "rejected"}


class Judged(Config):
    """A verdict, and what it was about.

    Attributes:
        date: names the retraining.
        inputs: `inputs_md5` of what it trained with.
        holdout: SHA-256 of the images that decided.
        challenger: version of the new detector; None: the gate could not read it.
        champion: version of the detector that served; None: the first one.
        verdict: PROMOTE, HOLD or REJECT.
        reason: of the gate.
    """

    date: str
    inputs: str
    holdout: str
    challenger: str | None
    champion: str | None
    verdict: str
    reason: str

    @property
    def branch(self) -> str:
        """Of the retraining."""
        return f"retrain/{self.date}"


def inputs_md5(tree: Path) -> str:
    """MD5 over all that a pipeline run reads: graph, settings, code, and data that no stage makes.

    Args:
        tree: a worktree whose data are checked out.
    """
    digest = hashlib.md5(json.dumps(code_digests(), sort_keys=True).encode())
    for name in ("dvc.yaml", "params.yaml"):
        digest.update((tree / name).read_bytes())
    for name in raw_dependencies(tree):
        record = tree / f"{name}.dvc"
        path = record if record.is_file() else tree / name
        digest.update(f"{name} {content_hash(path) if path.exists() else 'missing'}\n".encode())
    return digest.hexdigest()


def judge(date: str, inputs: str, verdict: dict[str, Any]) -> Judged:
    """A verdict with what it was about.

    Args:
        date: names the retraining.
        inputs: `inputs_md5` of what it trained with.
        verdict: content of the gate's `verdict.json`.
    """
    versions = {name: verdict[name] and verdict[name]["version"] for name in ("challenger", "champion")}
    return Judged(
        date=date,
        inputs=inputs,
        holdout=verdict["holdout"]["sha256"],
        verdict=verdict["verdict"],
        reason=verdict["reason"],
        **versions,
    )


def note_pending(root: Path, judged: Judged) -> None:
    """Write down a verdict before it is carried out: a run that is killed then cannot tell it."""
    write_json(root / PENDING, judged.model_dump(mode="json"))


def forget_pending(root: Path) -> None:
    """The verdict is told."""
    (root / PENDING).unlink(missing_ok=True)


def carried_out_untold(root: Path) -> Judged | None:
    """The verdict that a killed run carried out and did not tell, if there is one."""
    path = root / PENDING
    if not path.is_file():
        return None
    judged = Judged.parse(read_json(path), str(path))
    if judged.verdict == "REJECT":  # nothing had to be done
        return judged
    link = CHAMPION if judged.verdict == "PROMOTE" else CHALLENGER
    there = current(root, link)
    promoted = {entry.get("branch") for entry in history(root)}  # also if it was rolled back since
    is_done = there is not None and there.name == judged.challenger
    return judged if is_done or judged.branch in promoted else None


def remember_verdict(root: Path, judged: Judged) -> None:
    """Write down a verdict once it is carried out."""
    write_json(root / LAST, judged.model_dump(mode="json"))


def why_not_again(root: Path, inputs: str) -> str | None:
    """One sentence if the last verdict was about these inputs and nothing else has changed; else None."""
    path = root / LAST
    if not path.is_file():
        return None
    last = Judged.parse(read_json(path), str(path))
    card = card_path(root / HOLDOUT)
    holdout = read_json(card)["sha256"] if card.is_file() else None
    if (last.inputs, last.holdout) != (inputs, holdout):
        return None
    champion = current(root)
    serves = champion.name if champion is not None else None
    since = f"no new data, settings or code since {last.date}"
    if serves is not None and serves == last.challenger:
        return f"{since}: champion {serves} is up to date"
    if last.verdict != "PROMOTE" and serves != last.champion:
        return None  # the challenger may be better than what serves now
    return f"{since}, whose challenger was {DONE[last.verdict]}: {last.reason}"
