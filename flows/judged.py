"""The last verdict and what it was about: the same data, settings and code need no second training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flows.worktree import raw_dependencies
from metaldefect.artifacts import read_json, write_json
from metaldefect.config import Config
from pipeline.champion import current
from pipeline.code_version import code_digests
from pipeline.gate.holdout import HOLDOUT, card_path
from pipeline.run import content_hash

LAST = Path("reports/retrain/last.json")
DONE = {"PROMOTE": "promoted, and replaced since", "HOLD": "held", "REJECT": "rejected"}


class Judged(Config):
    """A verdict that was carried out.

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


def remember_verdict(root: Path, date: str, inputs: str, verdict: dict[str, Any]) -> None:
    """Write down a verdict once it is carried out."""
    versions = {name: verdict[name] and verdict[name]["version"] for name in ("challenger", "champion")}
    judged = Judged(
        date=date,
        inputs=inputs,
        holdout=verdict["holdout"]["sha256"],
        verdict=verdict["verdict"],
        reason=verdict["reason"],
        **versions,
    )
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
