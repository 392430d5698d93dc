"""The service follows `models/champion`: promotion and rollback reach it without a restart."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.serve import loader, make_service
from metaldefect.deploy.bundle import METADATA, bundle_version
from metaldefect.deploy.compiled import Compute
from metaldefect.deploy.follow import ChallengerFollower, Follower
from metaldefect.deploy.live import SHADOW_BACKLOG, Named, Shadow
from metaldefect.deploy.prediction_log import read_log
from metaldefect.deploy.runtime import Detection, Detector
from metaldefect.deploy.service import ServiceSettings
from metaldefect.deploy.service_routes import create_app
from pipeline.champion import CHAMPION, point, promote, rollback, store


@contextmanager
def ends(thread: threading.Thread, stop: threading.Event) -> Iterator[None]:
    """End the thread, whatever happens."""
    try:
        yield
    finally:
        stop.set()
        thread.join()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_promotion_and_rollback_reach_the_service_and_no_request_is_lost(
    planted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(tmp_path, planted["good"], {})
    model = tmp_path / CHAMPION
    service = make_service(model, "fp32", settings=ServiceSettings(max_waiting=64))
    client = TestClient(create_app(service))
    first, second = (bundle_version(planted[name]) for name in ("good", "half_blind"))
    answers: list[tuple[int, str, float]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = client.post("/predict", content=png())
            answers.append((answer.status_code, answer.json()["model_version"], answer.json()["threshold"]))

    def wait_for(version: str) -> None:
        deadline = time.monotonic() + 60
        while client.get("/health").json()["model_version"] != version:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    asking = threading.Thread(target=ask, daemon=True)
    with Follower(service, model, interval=0.02), ends(asking, stop):
        asking.start()
        promote(tmp_path, planted["half_blind"], {})
        wait_for(second)
        broken = Path(shutil.copytree(planted["broken"], tmp_path / "broken"))
        write_json(broken / METADATA, read_json(broken / METADATA) | {"licence": "another"})
        point(tmp_path, CHAMPION, store(tmp_path, broken))  # nobody does that; the service stays
        deadline = time.monotonic() + 60
        while "is not used" not in capsys.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.get("/health").json()["model_version"] == second
        point(tmp_path, CHAMPION, store(tmp_path, planted["half_blind"]))
        rollback(tmp_path)
        wait_for(first)
        count = len(answers)
        while len(answers) < count + 2 and asking.is_alive():
            time.sleep(0.02)
    assert {code for code, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == {first, second}
    assert len({(version, threshold) for _, version, threshold in answers}) == 2  # never mixed


def test_a_bundle_that_breaks_in_an_unknown_way_does_not_end_the_following(
    planted: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    promote(tmp_path, planted["good"], {})
    service = make_service(tmp_path / CHAMPION, "fp32")
    follower = Follower(service, tmp_path / CHAMPION)
    promote(tmp_path, planted["half_blind"], {})
    with monkeypatch.context() as patched:
        patched.setattr(service.live, "reload", lambda: {}["no such key"])
        assert not follower.look()
    assert "KeyError: 'no such key'" in capsys.readouterr().err
    promote(tmp_path, planted["good"], {})
    assert not follower.look()  # it has served all the time
    promote(tmp_path, planted["half_blind"], {})
    assert follower.look() is True


def test_a_rollback_over_http_stays_until_the_folder_changes(
    planted: dict[str, Path], tmp_path: Path
) -> None:
    promote(tmp_path, planted["good"], {})
    service = make_service(tmp_path / CHAMPION, "fp32")
    follower = Follower(service, tmp_path / CHAMPION)
    assert not follower.look()
    promote(tmp_path, planted["half_blind"], {})
    assert follower.look()
    service.live.rollback()
    assert not follower.look()
    assert service.live.current.version == bundle_version(planted["good"])
    (tmp_path / CHAMPION).unlink()
    assert not follower.look()


def test_a_challenger_may_appear_change_and_go(
    planted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "challenger"
    service = make_service(planted["good"], "fp32", log=tmp_path / "log")
    follower = ChallengerFollower(service, folder, loader(folder, "fp32", Compute(), None))
    versions = {}
    with TestClient(create_app(service)) as client:

        def score(part: str) -> None:
            assert client.post("/predict", params={"id": part}, content=png()).status_code == 200

        assert not follower.look()
        score("none yet")
        shutil.copytree(planted["half_blind"], folder)
        assert follower.look()
        assert not follower.look()
        score("first")
        versions["first"] = bundle_version(folder)
        write_json(folder / METADATA, read_json(folder / METADATA) | {"licence": "another"})
        assert follower.look()
        score("changed")
        versions["changed"] = bundle_version(folder)
        kept = folder.rename(tmp_path / "kept")
        assert not follower.look()
        assert "is gone: no challenger" in capsys.readouterr().out
        score("gone")
        shutil.copytree(planted["broken"], folder)
        assert not follower.look()
        score("broken")
        shutil.rmtree(folder)
        kept.rename(folder)
        assert follower.look(), "the same as before it went"
        score("back")
        versions["back"] = versions["changed"]
    rows = read_log(tmp_path / "log/challenger")
    assert dict(zip(rows["id"], rows["model_version"], strict=True)) == versions
    assert len(read_log(tmp_path / "log")) == 6


def test_an_image_that_comes_as_the_challenger_goes_costs_nothing(planted: dict[str, Path]) -> None:
    detector = Detector.load(planted["good"], "fp32", self_test=False)
    verdict, others = Detection(0.1, False, np.zeros((8, 8), np.float32)), []
    shadow = Shadow(detector, lambda _named, _one, other: others.append(other))
    shadow.close()
    for _ in range(SHADOW_BACKLOG + 1):
        shadow.offer(Named("a", np.zeros((90, 120), np.uint8)), verdict, detector)
    assert others == [None] * (SHADOW_BACKLOG + 1)


def test_a_refused_bundle_is_tried_again_once_a_file_deep_inside_is_whole(
    planted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(planted["good"], tmp_path / "model"))
    service = make_service(model, "fp32")
    follower = Follower(service, model)
    shutil.rmtree(model)
    shutil.copytree(planted["half_blind"], model)
    frame = next((model / "golden").iterdir())
    whole = frame.read_bytes()
    frame.write_bytes(whole[:100])  # still on its way
    assert not follower.look()
    assert frame.name in capsys.readouterr().err
    assert not follower.look()
    assert capsys.readouterr().err == "", "it is not tried again while nothing changes"
    frame.write_bytes(whole)
    assert follower.look()
    assert service.live.current.version == bundle_version(planted["half_blind"])
