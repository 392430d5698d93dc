"""Around a detector that serves: a second reload, another reader, a full disk, a number that is none."""

from __future__ import annotations

import csv
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.detect import frames_of, load_model, run_detection
from metaldefect.commands.serve import make_service
from metaldefect.deploy.accuracy import beyond_limits
from metaldefect.deploy.bundle import METADATA, bundle_version
from metaldefect.deploy.compiled import NoScoreError, result_of
from metaldefect.deploy.follow import Follower
from metaldefect.deploy.frame_store import FrameStore, kept_frame
from metaldefect.deploy.live import LiveDetector
from metaldefect.deploy.prediction_log import PredictionLog, read_log
from metaldefect.deploy.runtime import Detection, Detector
from metaldefect.deploy.service_routes import create_app
from metaldefect.images import write_png
from tests.deploy.test_service import IMAGE, png

MAP = np.zeros((80, 80), np.float32)


def renamed(bundle: Path) -> str:
    """Give a bundle another version by a word of its metadata; returns the version."""
    content = read_json(bundle / METADATA)
    write_json(bundle / METADATA, content | {"licence": content["licence"] + "+"})
    return bundle_version(bundle)


def test_a_reload_of_the_same_bundle_leaves_the_one_to_go_back_to(bundle: Path) -> None:
    live = LiveDetector(partial(Detector.load, bundle, self_test=False))
    first = live.current.version
    renamed(bundle)
    live.reload()
    live.reload()  # a client that did not see the answer asks twice
    live.rollback()
    assert live.current.version == first


def test_a_challenger_that_reads_images_otherwise_is_not_shown_any(
    exported: Path, coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would score colours that the champion has turned to grey."""
    service = make_service(exported, "fp32", challenger=coloured, log=tmp_path)
    assert "not shown any" in capsys.readouterr().err
    with TestClient(create_app(service)) as client:
        assert client.post("/predict", content=png(IMAGE)).status_code == 200
        skipped = 'metaldefect_shadow_total{decisions="skipped"} 1.0'
        assert skipped in client.get("/metrics").text
    assert read_log(tmp_path / "challenger").empty
    service = make_service(coloured, "fp32", challenger=exported, log=tmp_path / "other")
    with TestClient(create_app(service)) as client:
        client.post("/predict", params={"id": "a"}, content=png(IMAGE))
    assert read_log(tmp_path / "other/challenger")["id"].tolist() == ["a"]  # grey comes from colours


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_an_error(score: float) -> None:
    class Tensor:
        def __init__(self, data: np.ndarray) -> None:
            self.data = data

    class Request:
        def get_tensor(self, name: str) -> Tensor:
            return Tensor(np.array([score], np.float32) if name == "score" else MAP[None, None])

    with pytest.raises(NoScoreError, match="as score: try another precision"):
        result_of(Request())


def no_score(*_arguments: Any, **_named: Any) -> Detection:
    raise NoScoreError("the graph gave nan as score: try another precision or device")


def test_an_image_without_a_score_gets_no_verdict(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(exported, "fp32")
    with TestClient(create_app(service)) as client:
        with monkeypatch.context() as patched:
            patched.setattr(service.live.current.graph, "score", no_score)
            answer = client.post("/predict", content=png(IMAGE))
            assert (answer.status_code, "nan as score" in answer.json()["detail"]) == (500, True)
        assert client.post("/predict", content=png(IMAGE)).status_code == 200
    write_png(tmp_path / "photos/a.png", IMAGE)
    model = load_model(exported, "fp32")
    monkeypatch.setattr(type(model), "score", no_score)
    scored, refused = run_detection(model, frames_of(tmp_path / "photos"), tmp_path / "out")
    assert (scored, refused[0][0], "nan as score" in refused[0][1]) == (0, "a.png", True)


def test_a_watch_that_starts_again_keeps_its_rows(exported: Path, tmp_path: Path) -> None:
    model = load_model(exported, "fp32")
    for name in ("a", "b"):
        write_png(tmp_path / f"{name}/{name}.png", IMAGE)
        run_detection(model, frames_of(tmp_path / name), tmp_path / "out", append=True)
    with (tmp_path / "out/scores.csv").open(newline="") as stream:
        assert [row["image"] for row in csv.DictReader(stream)] == ["a.png", "b.png"]
    assert len((tmp_path / "out/scores.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_stops_no_verdict(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = make_service(exported, "fp32", log=tmp_path, keep_frames=3)
    service.log = PredictionLog(tmp_path, rows=1)

    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with TestClient(create_app(service)) as client:
        with monkeypatch.context() as patched:
            patched.setattr("metaldefect.deploy.prediction_log.pq.write_table", full)
            for number in range(3):
                answer = client.post("/predict", params={"id": f"p{number}"}, content=png(IMAGE))
                assert answer.status_code == 200
        assert capsys.readouterr().err.count("No space left on device") == 1
        assert "metaldefect_unlogged_total 1.0" in client.get("/metrics").text
    assert read_log(tmp_path)["id"].tolist() == ["p0", "p1", "p2"]  # written once there is room again


def test_memory_stays_bounded_while_the_disk_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, attempts = 0.0, []

    def full(*_arguments: Any) -> None:
        attempts.append(now)
        raise OSError(28, "No space left on device")

    log = PredictionLog(tmp_path, rows=2, seconds=60, clock=lambda: now)
    monkeypatch.setattr("metaldefect.deploy.prediction_log.pq.write_table", full)
    for index in range(100):
        now = 10.0 * index
        answer = {"id": f"p{index}", "threshold": 0.45, "model_version": "v1", "precision": "fp16"}
        try:
            log.add(IMAGE, Detection(0.1, False, MAP), answer)
        except OSError:
            continue
    assert len(attempts) < 20  # one per minute, not one per image
    monkeypatch.undo()
    log.flush()
    kept = read_log(tmp_path)["id"].tolist()
    assert (kept[-1], len(kept) <= 20) == ("p99", True)


def test_kept_images_take_no_more_than_their_share_of_the_disk(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "frames", most=10, most_bytes=250)
    for number in range(4):
        store.add(str(number), b"\x89PNG" + bytes(96))
    assert [kept_frame(tmp_path, str(number)) is not None for number in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    store.add("large", b"\x89PNG" + bytes(400))
    assert len(list((tmp_path / "frames").iterdir())) == 1


def test_an_id_has_one_image_whatever_its_format(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "frames", most=10)
    store.add("part 7", b"BM the old one")
    store.add("part 7", b"\x89PNG the new one")
    kept = kept_frame(tmp_path, "part 7")
    assert kept is not None
    assert kept.read_bytes() == b"\x89PNG the new one"
    assert list((tmp_path / "frames").iterdir()) == [kept]


def test_a_full_disk_leaves_no_half_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:2])
        raise OSError(28, "No space left on device")

    store = FrameStore(tmp_path / "frames", most=10)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        store.add("part 7", b"\x89PNG")
    assert list((tmp_path / "frames").iterdir()) == []


def test_a_promotion_while_the_service_starts_is_followed(bundle: Path) -> None:
    service = make_service(bundle, "fp32")
    version = renamed(bundle)  # before the follower first looks
    follower = Follower(service, bundle)
    assert follower.look()
    assert service.live.current.version == version
    assert not follower.look()


def test_a_bundle_that_was_still_being_copied_is_taken_once_it_is_whole(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = make_service(bundle, "fp32")
    follower = Follower(service, bundle)
    graph = bundle / "detector_fp32.bin"
    shutil.copy(graph, tmp_path / "whole.bin")
    graph.write_bytes(graph.read_bytes()[:100])
    renamed(bundle)
    assert not follower.look()
    assert not follower.look()  # the same half is not tried again
    assert capsys.readouterr().err.count("is not used") == 1
    shutil.copy(tmp_path / "whole.bin", graph)
    assert follower.look()


def test_what_a_precision_loses_beyond_its_limit_is_named() -> None:
    accuracy = {"fp16": {"auroc_drop": 0.001}, "int8": {"auroc_drop": 0.0071}, "fp32": {}}
    assert beyond_limits(accuracy) == ["int8 loses 0.71 points of image AUROC, more than 0.5"]
    assert beyond_limits({"fp16": {}, "int8": {"auroc_drop": 0.005}}) == []
