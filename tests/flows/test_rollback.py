"""The flow `rollback`: the previous champion serves, the registry follows, and people are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import rollback as module
from flows.rollback import rollback
from metaldefect.errors import UserError
from pipeline.champion import BUNDLES, CHAMPION, current, history, point, remember

TORCHLESS = """\
import sys
from flows.rollback import rollback

print(rollback.fn(sys.argv[1]).name)
print("TORCH", "torch" in sys.modules)
"""


def serve(root: Path, version: str) -> None:
    (root / BUNDLES / version).mkdir(parents=True)
    point(root, CHAMPION, root / BUNDLES / version)
    remember(root, {"version": version, "action": "promote"})


def test_the_previous_champion_serves_and_everybody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[Path | None] = []
    monkeypatch.setattr(module, "follow", lambda root: followed.append(current(root)))
    for name in ("WEBHOOK", "EMAIL"):
        monkeypatch.delenv(f"METALDEFECT_NOTIFY_{name}", raising=False)
    serve(tmp_path, "old")
    serve(tmp_path, "new")

    state = rollback.fn(str(tmp_path))

    assert (state.name, state.message) == ("RolledBack", "champion: old, before: new")
    assert current(tmp_path) == followed[0] == (tmp_path / BUNDLES / "old").resolve()
    assert history(tmp_path)[-1]["action"] == "rollback"
    notices = (tmp_path / "logs/notices.log").read_text()
    assert "warning rolled back | champion: old, before: new" in notices


def test_torch_is_never_imported(
    tmp_path: Path, environment: dict[str, str], give_store: Callable[[Path], None]
) -> None:
    give_store(tmp_path)
    serve(tmp_path, "old")
    serve(tmp_path, "new")
    command = [sys.executable, "-c", TORCHLESS, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["RolledBack", "TORCH False"], done.stderr


def test_the_first_champion_has_none_before_it(tmp_path: Path) -> None:
    serve(tmp_path, "old")
    with pytest.raises(UserError, match="there is none to go back to"):
        rollback.fn(str(tmp_path))
