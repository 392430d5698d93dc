"""The champion: swapped by one rename, remembered, and brought back."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.deploy.bundle import METADATA, bundle_version
from metaldefect.deploy.runtime import Detector
from metaldefect.errors import UserError
from pipeline import champion
from pipeline.champion import current, history, hold, previous, promote, rollback, store

FRAME = np.random.default_rng(3).integers(0, 256, (128, 128), dtype=np.uint8)


def fake(folder: Path, name: str) -> Path:
    """A folder that looks like a bundle."""
    bundle = folder / name
    bundle.mkdir(parents=True)
    (bundle / METADATA).write_text(json.dumps({"name": name}))
    (bundle / "weights.bin").write_text(name * 1000)
    return bundle


def served(root: Path) -> str:
    return str(json.loads((root / champion.CHAMPION / METADATA).read_text())["name"])


def test_promote_hold_and_roll_back(tmp_path: Path) -> None:
    one, two, three = (fake(tmp_path / "new", name) for name in ("one", "two", "three"))
    assert current(tmp_path) is None
    assert promote(tmp_path, one, {"reason": "first"}) is None
    assert promote(tmp_path, two, {"reason": "better"}) == bundle_version(one)
    assert served(tmp_path) == "two"

    hold(tmp_path, three)
    assert served(tmp_path) == "two"
    assert current(tmp_path, champion.CHALLENGER) == store(tmp_path, three)
    promote(tmp_path, tmp_path / champion.CHALLENGER, {"reason": "by hand"})
    assert served(tmp_path) == "three"
    assert current(tmp_path, champion.CHALLENGER) is None

    assert rollback(tmp_path) == (bundle_version(three), bundle_version(two))
    assert served(tmp_path) == "two"
    assert rollback(tmp_path)[1] == bundle_version(three)
    actions = [entry["action"] for entry in history(tmp_path)]
    assert actions == ["promote", "promote", "promote", "rollback", "rollback"]


def test_a_project_that_moved_keeps_its_champion(tmp_path: Path) -> None:
    promote(tmp_path / "a", fake(tmp_path, "one"), {})
    (tmp_path / "a").rename(tmp_path / "b")
    assert served(tmp_path / "b") == "one"


def test_nothing_to_go_back_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was promoted yet"):
        rollback(tmp_path)
    promote(tmp_path, fake(tmp_path / "new", "one"), {})
    with pytest.raises(UserError, match="is the first champion"):
        rollback(tmp_path)
    (tmp_path / champion.CHAMPION).unlink()
    (tmp_path / champion.CHAMPION).mkdir()
    with pytest.raises(UserError, match="is a folder, not a link"):
        promote(tmp_path, fake(tmp_path / "new", "two"), {})
    with pytest.raises(UserError, match="is not an exported detector"):
        promote(tmp_path, tmp_path / "new", {})


def test_old_bundles_are_deleted_but_never_one_in_use(tmp_path: Path) -> None:
    bundles = [fake(tmp_path / "new", f"b{k}") for k in range(9)]
    for age, bundle in enumerate(bundles[:3]):
        promote(tmp_path, bundle, {})
        os.utime(current(tmp_path) or "", (age, age))  # the oldest of all
    for age, bundle in enumerate(bundles[3:], 10):
        hold(tmp_path, bundle)
        os.utime(current(tmp_path, champion.CHALLENGER) or "", (age, age))
    hold(tmp_path, bundles[8])
    left = {path.name for path in (tmp_path / champion.BUNDLES).glob("[!.]*")}
    assert {bundle_version(bundles[k]) for k in (1, 2, 8)} <= left  # previous, champion, challenger
    assert len(left) == champion.KEPT + 3
    assert bundle_version(bundles[0]) not in left


def test_killed_between_rename_and_list_the_way_back_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (fake(tmp_path / "new", name) for name in ("one", "two", "three"))
    promote(tmp_path, one, {})
    with monkeypatch.context() as killed:
        killed.setattr(champion, "remember", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(tmp_path, two, {})
    assert served(tmp_path) == "two"
    assert previous(tmp_path) == store(tmp_path, one)
    promote(tmp_path, three, {})
    assert rollback(tmp_path) == (bundle_version(three), bundle_version(two))


def test_a_reader_sees_one_whole_bundle_while_others_swap(tmp_path: Path) -> None:
    one, two = (store(tmp_path, fake(tmp_path / "new", name)) for name in ("one", "two"))
    champion.point(tmp_path, champion.CHAMPION, one)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for bundle in (two, one):
                champion.point(tmp_path, champion.CHAMPION, bundle)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            folder = (tmp_path / champion.CHAMPION).resolve(strict=True)
            name = json.loads((folder / METADATA).read_text())["name"]
            assert (folder / "weights.bin").read_text() == name * 1000
    finally:
        stop.set()
        thread.join()


def test_kill_at_any_moment_leaves_a_whole_champion(tmp_path: Path) -> None:
    names = ["one", "two"]
    bundles = [fake(tmp_path / "new", name) for name in names]
    promote(tmp_path, bundles[0], {})
    script = (
        "import sys; from pathlib import Path; from pipeline.champion import promote\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for bundle in sys.argv[2:]: promote(Path(sys.argv[1]), Path(bundle), {})\n"
    )
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), *map(str, bundles)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        threading.Event().wait(0.03 + 0.011 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        name = served(tmp_path)
        assert (tmp_path / champion.CHAMPION / "weights.bin").read_text() == name * 1000
        for line in history(tmp_path):
            assert line["version"] in {bundle_version(bundle) for bundle in bundles}


def test_rollback_serves_the_old_scores_again(planted: dict[str, Path], tmp_path: Path) -> None:
    """The command line on real detectors: the scores before, and after the way back, are equal bit by bit."""
    from typer.testing import CliRunner

    from pipeline.cli import app

    def score() -> tuple[str, float, bool]:
        detector = Detector.load(tmp_path / champion.CHAMPION, "fp16")
        detection = detector.predict(FRAME)
        return detector.version, detection.score, detection.is_anomalous

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--root", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    command("promote", str(planted["good"]))
    old = score()
    assert "before: " + old[0] in command("promote", str(planted["worse"]), "--reason", "a bad idea")
    assert score()[1] == -old[1]  # it scores upside down

    assert command("rollback") == f"champion: {old[0]}, before: {bundle_version(planted['worse'])}\n"
    assert score() == old
    assert [entry.get("reason") for entry in history(tmp_path)] == ["by hand", "a bad idea", None]


def test_a_broken_bundle_cannot_be_promoted_by_hand(planted: dict[str, Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pipeline.cli import app

    done = CliRunner().invoke(app, ["promote", str(planted["broken"]), "--root", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert not (tmp_path / champion.CHAMPION).exists()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_challenger_that_is_promoted_from_the_projects_folder_leaves_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fake(tmp_path / "new", "one")
    monkeypatch.chdir(tmp_path)
    hold(Path(), bundle)
    for _ in range(2):
        promote(Path(), bundle.resolve(), {"reason": "by hand"})
    assert current(Path(), champion.CHALLENGER) is None
    assert [entry["action"] for entry in history(Path())] == ["promote"]


def test_a_champion_whose_folder_is_gone_is_not_taken_for_none(tmp_path: Path) -> None:
    promote(tmp_path, fake(tmp_path / "new", "one"), {"reason": "first"})
    shutil.rmtree(tmp_path / champion.BUNDLES)
    with pytest.raises(UserError, match=r"champion leads to bundles/.*, which is gone: restore that folder"):
        current(tmp_path)
