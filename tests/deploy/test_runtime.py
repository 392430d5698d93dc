"""The runtime under load: order, threads, tiles, swaps, a challenger."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import openvino
import pytest

from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import bundle_version, read_metadata
from metaldefect.deploy.compiled import CompiledGraph, Compute
from metaldefect.deploy.live import SHADOW_BACKLOG, LiveDetector
from metaldefect.deploy.runtime import Detection, Detector, overlay
from metaldefect.deploy.signature import sign
from metaldefect.errors import RejectedFileError, UserError
from metaldefect.tiling import score_tiles
from tests.deploy.keys import key_files


def images(count: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 30 + 18 * k, (60 + 9 * k, 80 + 5 * k) if k % 2 else (90, 70, 3)).astype(np.uint8)
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def detector(exported: Path) -> Detector:
    return Detector.load(exported, "fp32", Compute("THROUGHPUT"))


def test_batches_and_streams_give_the_verdicts_of_single_images_in_order(detector: Detector) -> None:
    expected = [detector.predict(image) for image in images()]
    assert {one.is_anomalous for one in expected} == {True, False}
    for _ in range(5):  # sizes grow and fall, again and again: buffers of the first round are reused
        assert [one.score for one in detector.stream(iter(images()))] == pytest.approx(
            [one.score for one in expected], abs=1e-4
        )
    for found in (detector.predict_batch(images()), list(detector.stream(iter(images())))):
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)
        assert [one.is_anomalous for one in found] == [one.is_anomalous for one in expected]
        assert [one.anomaly_map.shape for one in found] == [image.shape[:2] for image in images()]


def test_a_stream_holds_few_images_at_a_time(detector: Detector) -> None:
    drawn = 0

    def source() -> object:
        nonlocal drawn
        for image in images(4) * 25:
            drawn += 1
            yield image

    stream = detector.stream(source())  # type: ignore[arg-type]
    next(stream)
    assert drawn < 50
    assert sum(1 for _ in stream) == 99


def test_many_threads_share_one_detector(detector: Detector) -> None:
    expected = [detector.predict(image).score for image in images()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: detector.predict(image).score, images() * 4))
    assert found == pytest.approx(expected * 4, abs=1e-4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40, 4), np.uint8), r"with 1 or 3 channels, got \[40, 40, 4\]"),
        (np.zeros((40, 40, 2), np.uint8), r"with 1 or 3 channels"),
        (np.zeros(40, np.uint8), r"got \[40\]"),
        (np.zeros((40, 40)), "pixels of type float64: this detector takes uint8; it was trained on 8-bit"),
        (np.zeros((40, 40), np.uint16), "pixels of type uint16"),
        (np.zeros((0, 40), np.uint8), "40x0 pixels"),
        (np.broadcast_to(np.uint8(0), (7072, 7072)), "at most 50,000,000 in all"),
    ],
)
def test_what_is_no_frame_is_refused_and_the_detector_lives(
    detector: Detector, image: np.ndarray, message: str
) -> None:
    with pytest.raises(RejectedFileError, match=message):
        detector.predict(image)
    with pytest.raises(RejectedFileError, match=message):
        detector.predict_batch([images()[0], image])
    assert np.isfinite(detector.predict(images()[0]).score)


def test_an_unknown_device_is_named(exported: Path) -> None:
    with pytest.raises(UserError, match=r"device GPU\.7: this machine has CPU"):
        Detector.load(exported, compute=Compute(device="GPU.7"))


def test_tiles_find_what_resizing_loses(detector: Detector) -> None:
    size = detector.image_size
    large = np.full((3 * size, 4 * size), 120, np.uint8)
    large[200:240, 300:340] = np.random.default_rng(0).integers(0, 256, (40, 40))
    found = detector.predict_tiles(large, 32)
    assert found.anomaly_map.shape == large.shape
    row, column = np.unravel_index(found.anomaly_map.argmax(), large.shape)
    assert 190 < row < 250
    assert 290 < column < 350
    assert found.score > detector.predict(large).score
    # An image of one tile needs no stitching
    single = images()[3][:size, :size]
    padded = np.pad(single, [(0, size - single.shape[0]), (0, size - single.shape[1])], mode="edge")
    whole = detector.predict(padded)
    tile = detector.predict_tiles(single, 0)
    assert tile.score == pytest.approx(whole.score, abs=1e-4)
    np.testing.assert_allclose(
        tile.anomaly_map, whole.anomaly_map[: single.shape[0], : single.shape[1]], atol=1e-4
    )


@pytest.mark.parametrize("place", [0, 1])
def test_a_tile_without_a_score_leaves_the_image_without_one(place: int) -> None:
    scores = [5.0, 5.0]
    scores[place] = float("nan")
    answers = [(score, np.zeros((16, 16), np.float32)) for score in scores]
    score, _ = score_tiles(lambda _tiles: answers, np.zeros((16, 32), np.uint8), 16, 0)
    assert np.isnan(score)


@pytest.mark.parametrize("shape", [(150, 90), (150, 90, 3)])
def test_an_overlay_drawn_in_bands_is_that_of_the_whole_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    anomaly_map = rng.uniform(-0.2, 1.4, shape[:2]).astype(np.float32)
    level = np.clip(anomaly_map.astype(np.float64), 0, 1)  # the threshold is half of it
    colours = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    opacity = 0.55 * level[..., None]
    expected = (1 - opacity) * (image if image.ndim == 3 else image[..., None]) + opacity * colours
    drawn = overlay(image, anomaly_map, threshold=0.5)
    assert (drawn.shape, drawn.dtype) == ((150, 90, 3), np.uint8)
    # Where a level lies between two of the map's 256 colours, float32 may choose the other
    np.testing.assert_allclose(drawn, expected, atol=1.51)
    assert np.abs(drawn - expected).mean() < 0.26


def test_an_overlay_needs_little_more_memory_than_its_pixels() -> None:
    image = np.full((1500, 2000), 128, np.uint8)
    anomaly_map = np.linspace(0, 1, image.size, dtype=np.float32).reshape(image.shape)
    tracemalloc.start()
    drawn = overlay(image, anomaly_map, threshold=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * drawn.nbytes


def test_a_bundle_that_is_replaced_while_it_is_loaded_is_not_mixed_with_the_next(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_files(tmp_path, "plant")
    sign(bundle, private)
    signed, version = read_metadata(bundle), bundle_version(bundle)
    read, reads = Path.read_bytes, []

    def read_and_replace(path: Path) -> bytes:
        content = read(path)
        if path.name == "metadata.json":
            reads.append(path)
            changed(bundle, -9.0)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_replace)
    detector = Detector.load(bundle, public_key=public, self_test=False)
    assert len(reads) == 1
    assert (detector.metadata, detector.version) == (signed, version)
    monkeypatch.undo()
    with pytest.raises(UserError, match="the bundle was changed"):
        Detector.load(bundle, public_key=public, self_test=False)


def changed(bundle: Path, threshold: float) -> None:
    content = read_json(bundle / "metadata.json")
    content["precisions"]["fp16"]["threshold"] = threshold
    write_json(bundle / "metadata.json", content)


def test_a_swap_drops_no_frame_and_can_be_undone(bundle: Path) -> None:
    live = LiveDetector(partial(Detector.load, bundle, self_test=False))
    first = live.current
    versions, stop = [], threading.Event()

    def feed() -> int:
        count = 0
        while not stop.is_set():
            used = live.current
            detection = live.predict(images()[1], used)
            assert np.isfinite(detection.score)
            versions.append(used.version)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        feeding = [pool.submit(feed) for _ in range(2)]
        for threshold in (0.5, 0.6):
            changed(bundle, threshold)
            live.reload()
        stop.set()
        assert sum(future.result() for future in feeding) == len(versions)
    assert first.version in versions
    assert live.current.threshold == 0.6
    live.rollback()
    assert live.current.threshold == 0.5
    (bundle / "detector_fp16.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"detector_fp16\.bin has SHA-256"):
        live.reload()
    assert live.current.threshold == 0.5, "a refused bundle must not replace a good one"


def test_nothing_to_roll_back_to(exported: Path) -> None:
    live = LiveDetector(partial(Detector.load, exported, self_test=False))
    with pytest.raises(UserError, match="no previous detector"):
        live.rollback()


def test_a_challenger_scores_the_same_frames_without_a_say(exported: Path, bundle: Path) -> None:
    changed(bundle, -9.0)  # calls everything anomalous
    live = LiveDetector(partial(Detector.load, exported, self_test=False))
    pairs: list[tuple[Detection, Detection | None]] = []
    live.shadow(Detector.load(bundle, self_test=False), lambda named, one, other: pairs.append((one, other)))
    calm = np.full((100, 100), 90, np.uint8)
    live.current.threshold = 1e6
    for _ in range(3):
        assert not live.predict(calm).is_anomalous
    live.close()
    scored = [(one, other) for one, other in pairs if other is not None]
    assert len(pairs) == 3
    assert scored
    assert all(not one.is_anomalous and other.is_anomalous for one, other in scored)
    assert scored[0][0].score == pytest.approx(scored[0][1].score, abs=1e-3)


@pytest.mark.parametrize("slow", [False, True])
def test_frames_that_the_challenger_does_not_score_are_reported(exported: Path, slow: bool) -> None:
    go_on, others = threading.Event(), []

    class Refusing:
        levels, channels = None, 1

        def predict(self, _image: object) -> Detection:
            if slow:
                go_on.wait(60)
            raise RejectedFileError("too bright")

    live = LiveDetector(partial(Detector.load, exported, self_test=False))
    live.shadow(Refusing(), lambda _named, _one, other: others.append(other))  # type: ignore[arg-type]
    for _ in range(SHADOW_BACKLOG + 2):
        live.predict(np.full((100, 100), 90, np.uint8))
    go_on.set()
    live.close()
    assert others == [None] * (SHADOW_BACKLOG + 2)


def test_an_inference_that_fails_without_a_callback_is_an_error(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO calls no callback where an inference raises."""
    detector = Detector.load(exported, self_test=False)
    monkeypatch.setattr("metaldefect.deploy.compiled.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(openvino.AsyncInferQueue, "start_async", lambda *_words, **_named: None)
    with pytest.raises(RuntimeError, match="an inference of OpenVINO failed"):
        list(detector.stream([np.zeros((64, 64), np.uint8)]))


def test_a_graph_of_another_network_is_refused(tmp_path: Path) -> None:
    ops = openvino.opset13
    frame = ops.parameter([1, -1, -1, -1], np.uint8, name="frame")
    openvino.save_model(openvino.Model([ops.result(ops.relu(frame))], [frame]), tmp_path / "other.xml")
    with pytest.raises(UserError, match=r"other\.xml is no detector's graph: it lacks .*score"):
        CompiledGraph(tmp_path / "other.xml", "fp32")


def test_hint_threads_and_cache_reach_openvino(exported: Path, tmp_path: Path) -> None:
    compute = Compute("THROUGHPUT", threads=1, cache=tmp_path / "cache")
    first = Detector.load(exported, "int8", compute)
    assert "THROUGHPUT" in str(first.graph.model.get_property("PERFORMANCE_HINT"))
    assert first.graph.model.get_property("INFERENCE_NUM_THREADS") == 1
    assert not first.graph.model.get_property("LOADED_FROM_CACHE")
    again = Detector.load(exported, "int8", compute)
    assert again.graph.model.get_property("LOADED_FROM_CACHE")
    image = images()[3]
    assert again.predict(image).score == pytest.approx(first.predict(image).score, abs=1e-6)
