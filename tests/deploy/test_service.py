"""The HTTP service answers, refuses, counts, swaps and stops."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import schemathesis
import tifffile
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from PIL import Image

from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.serve import make_service
from metaldefect.deploy.feedback import read_feedback
from metaldefect.deploy.frame_store import kept_frame
from metaldefect.deploy.prediction_log import PredictionLog, read_log
from metaldefect.deploy.runtime import Detection, Detector
from metaldefect.deploy.service import Service, ServiceSettings
from metaldefect.deploy.service_routes import create_app
from metaldefect.errors import UserError

ROOT = Path(__file__).parents[2]
LIMITS = ServiceSettings(
    max_bytes=200_000, max_batch=4, max_batch_bytes=500_000, max_pixels=100_000, max_waiting=2
)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


IMAGE = np.random.default_rng(0).integers(0, 200, (90, 120), dtype=np.uint8)


@pytest.fixture(scope="module")
def service(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    log = tmp_path_factory.mktemp("log")
    return make_service(exported, "fp32", challenger=exported, log=log, settings=LIMITS)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    client = TestClient(create_app(service))
    yield client
    client.close()


def test_an_image_gets_a_verdict_and_an_overlay(client: TestClient, exported: Path) -> None:
    expected = Detector.load(exported, "fp32", self_test=False).predict(IMAGE)
    answer = client.post("/predict", params={"overlay": True}, content=png(IMAGE))
    assert answer.status_code == 200
    verdict = answer.json()
    assert verdict["score"] == pytest.approx(expected.score, abs=1e-4)
    assert verdict["is_anomalous"] == expected.is_anomalous
    assert verdict["precision"] == "fp32"
    with Image.open(io.BytesIO(base64.b64decode(verdict["overlay"]))) as picture:
        assert (picture.size, picture.mode) == ((120, 90), "RGB")
    assert client.post("/predict", content=png(IMAGE)).json()["overlay"] is None


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "empty body"),
        (b"no image", 422, "not an image file"),
        (png(IMAGE)[:200], 422, "unreadable image"),
        (png(np.zeros((40, 40, 4), np.uint8)), 422, "transparent pixels"),
        (png(np.zeros((8, 8), np.uint8)), 422, "8x8 is smaller than 16x16"),
        (png(np.zeros((40, 40), np.uint16)), 422, "more than 8 bits per pixel"),
        (png(np.zeros((400, 400), np.uint8)), 413, "160000 pixels, more than 100000"),
        (png(np.zeros((7100, 7100), np.uint8)), 413, "50410000 pixels, more than 100000"),
        (os.urandom(200_001), 413, "more than 200000 bytes"),
    ],
)
def test_bad_images_are_refused_with_the_reason_and_the_process_lives(
    client: TestClient, body: bytes, status: int, message: str
) -> None:
    answer = client.post("/predict", content=body)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
    assert client.get("/health").json()["status"] == "ok"
    assert client.post("/predict", content=png(IMAGE)).status_code == 200


def form(*bodies: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"part-{number}.png", body)) for number, body in enumerate(bodies)]


def test_a_batch_gets_one_verdict_per_image_in_order(client: TestClient, service: Service) -> None:
    dark = png(IMAGE // 8)
    answer = client.post("/predict/batch", files=form(png(IMAGE), b"no image", dark, b""))
    assert answer.status_code == 200, answer.text
    found = answer.json()["verdicts"]
    assert [one["id"] for one in found] == [f"part-{number}.png" for number in range(4)]
    for number, body in ((0, png(IMAGE)), (2, dark)):
        alone = client.post("/predict", content=body).json()
        assert found[number]["score"] == pytest.approx(alone["score"], abs=1e-5)
        assert found[number]["is_anomalous"] == alone["is_anomalous"]
        assert found[number]["refused"] is None
    assert found[0]["score"] != pytest.approx(found[2]["score"], abs=1e-3)
    assert found[1]["refused"] == "not an image file: send PNG, JPEG, BMP or TIFF"
    assert (found[1]["score"], found[3]["refused"]) == (None, "empty body: send the bytes of an image file")
    assert service.log is not None
    service.log.flush()
    assert {"part-0.png", "part-2.png"} <= set(read_log(service.log.folder)["id"])


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ([], 422, "no file: send multipart/form-data"),
        (form(*[b"x"] * 5), 413, "more than 4 images"),
        (form(*[bytes(200_000)] * 3), 413, "more than 500000 bytes"),
    ],
)
def test_a_batch_that_is_none_or_too_large_is_refused(
    client: TestClient, files: Any, status: int, message: str
) -> None:
    answer = client.post("/predict/batch", files=files)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
    broken = {"content": b"--x\r\nno part", "headers": {"content-type": "multipart/form-data; boundary=x"}}
    assert client.post("/predict/batch", **broken).status_code == 422
    assert client.post("/predict", content=png(IMAGE)).status_code == 200


def test_a_challengers_verdicts_are_logged_under_the_same_ids(
    exported: Path, bundle: Path, tmp_path: Path
) -> None:
    content = read_json(bundle / "metadata.json")
    content["precisions"]["fp32"]["threshold"] = -9.0  # calls everything anomalous
    write_json(bundle / "metadata.json", content)
    service = make_service(exported, "fp32", challenger=bundle, log=tmp_path, settings=LIMITS)
    service.live.current.threshold = 9.0
    with TestClient(create_app(service)) as client:
        for number in range(3):
            client.post("/predict", params={"id": f"part {number}"}, content=png(IMAGE))
    both = read_log(tmp_path).merge(read_log(tmp_path / "challenger"), on="id")
    assert 1 <= len(both) <= 3
    assert both["is_anomalous_y"].all()
    assert not both["is_anomalous_x"].any()
    assert set(both["model_version_y"]) == {Detector.load(bundle, "fp32", self_test=False).version}


def test_too_many_requests_at_once_are_told_to_come_again(client: TestClient, service: Service) -> None:
    service.enter()
    assert client.get("/ready").status_code == 200
    service.enter()
    try:
        answer = client.post("/predict", content=png(IMAGE))
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
    finally:
        service.leave()
        service.leave()
    assert client.post("/predict", content=png(IMAGE)).status_code == 200


def test_prometheus_counts_verdicts_refusals_and_the_model(client: TestClient, service: Service) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = (
        "metaldefect_decisions_total", 'metaldefect_refused_total{status="422"}',
        "metaldefect_latency_seconds_count", "metaldefect_score_count",
    )  # fmt: skip
    before = [value(name) for name in names]
    client.post("/predict", content=png(IMAGE))
    client.post("/predict", content=b"")
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1, 1]
    assert value(f'metaldefect_model_info{{version="{service.live.current.version}"}}') == 1


def test_a_model_that_takes_over_while_a_file_is_read_does_not_score_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(bundle, "fp32", settings=LIMITS)
    first, read = service.live.current, Detector.read
    content = read_json(bundle / "metadata.json")
    content["precisions"]["fp32"]["threshold"] = 0.123
    write_json(bundle / "metadata.json", content)

    def read_during_a_swap(detector: Detector, path: str) -> np.ndarray:
        pixels = read(detector, path)
        service.live.reload()
        return pixels

    monkeypatch.setattr(Detector, "read", read_during_a_swap)
    verdict = service.judge(png(IMAGE), with_overlay=True)
    assert service.live.current.threshold == 0.123
    assert (verdict.model_version, verdict.threshold) == (first.version, first.threshold)


@pytest.mark.parametrize("body", [b'{"id": "x", "defective": NaN}', b'{"id": "\\ud800", "defective": true}'])
def test_values_that_json_cannot_hold_are_refused_with_a_reason(client: TestClient, body: bytes) -> None:
    answer = client.post("/feedback", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_16_bit_colour_in_tiff_is_known_by_its_content(client: TestClient, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.full((90, 120, 3), 4000, np.uint16), photometric="rgb")
    answer = client.post("/predict", content=(tmp_path / "deep.tif").read_bytes())
    assert answer.status_code == 422
    assert "without known levels" in answer.json()["detail"]


def status_of_upload(
    service: Service,
    receive: Callable[[], Awaitable[dict[str, Any]]],
    path: str = "/predict",
    kind: str = "application/octet-stream",
) -> int:
    """The status of a request whose body arrives as `receive` says."""

    async def ask() -> int:
        statuses: list[int] = []

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
            "headers": [(b"content-type", kind.encode())], "query_string": b"", "scheme": "http",
            "server": ("x", 80), "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await create_app(service)(scope, receive, send)
        return statuses[0]

    with ThreadPoolExecutor(1) as own_thread:  # the browser of other tests keeps a loop in this one
        return own_thread.submit(asyncio.run, ask()).result()


def test_a_request_that_does_not_arrive_is_refused_and_frees_its_place(exported: Path) -> None:
    limits = LIMITS.model_copy(update={"max_upload_seconds": 0.2})
    service = make_service(exported, "fp32", settings=limits)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError("nothing arrives")

    assert (status_of_upload(service, receive), service._working) == (408, 0)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/predict", "application/octet-stream"), ("/predict/batch", "multipart/form-data; boundary=x")],
)
def test_a_connection_that_ends_within_a_request_is_counted_as_a_refusal(
    service: Service, path: str, kind: str
) -> None:
    messages = iter(
        [
            {"type": "http.request", "body": b"--x\r\nContent-Disposition", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    refused = service.metrics.refused.labels("400")
    before = refused._value.get()
    assert status_of_upload(service, receive, path, kind) == 400
    assert (refused._value.get() - before, service._working) == (1, 0)


def test_a_full_disk_refuses_no_upload(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file, nor a TIFF, nor a batch whose files are above the 1 MB that Starlette spools."""
    client = TestClient(create_app(make_service(exported, "fp32")))

    def full(*_arguments: Any, **_named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("NamedTemporaryFile", "TemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, full)
    tiff = io.BytesIO()
    Image.fromarray(IMAGE).save(tiff, format="TIFF")
    assert client.post("/predict", content=png(IMAGE)).status_code == 200
    assert client.post("/predict", content=tiff.getvalue()).status_code == 200
    large = png(np.random.default_rng(0).integers(0, 256, (1000, 1200), dtype=np.uint8))
    assert len(large) > 1024 * 1024
    answer = client.post("/predict/batch", files=form(large, png(IMAGE)))
    assert (answer.status_code, [one["refused"] for one in answer.json()["verdicts"]]) == (200, [None, None])


def test_a_system_without_files_in_memory_scores_from_temporary_ones(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert client.post("/predict", content=png(IMAGE)).status_code == 200


@pytest.mark.parametrize(
    "route", ["/predict", "/predict/batch", "/feedback", "/model/reload", "/model/rollback"]
)
@pytest.mark.parametrize("origin", ["http://evil.example", "http://testserver:81", "null"])
def test_a_web_page_of_another_site_changes_nothing(
    client: TestClient, service: Service, route: str, origin: str
) -> None:
    refused = service.metrics.refused.labels("403")
    before, version = refused._value.get(), service.live.current
    answer = client.post(route, headers={"Origin": origin}, json={"id": "x", "defective": True})
    assert (answer.status_code, origin in answer.json()["detail"]) == (403, True)
    assert refused._value.get() == before + 1
    assert service.live.current is version
    assert client.get("/health", headers={"Origin": origin}).status_code == 200


def test_the_services_own_page_and_plain_clients_are_answered(client: TestClient) -> None:
    for headers in ({"Origin": "http://testserver"}, {"Origin": "https://TestServer"}, {}):
        assert client.post("/predict", content=png(IMAGE), headers=headers).status_code == 200


def test_the_page_of_all_routes_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    routes = re.findall(r"<h2>(.*)</h2>", page.text)
    schema = client.get("/openapi.json").json()
    assert routes == [
        f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods
    ]
    assert "POST /predict/batch" in routes
    assert "<td><code>overlay</code></td><td>boolean, optional</td>" in page.text
    assert "<td><code>defective</code></td><td>boolean</td>" in page.text
    assert "Load the bundle again, test it, and use it from the next image on." in page.text
    assert "<script" not in page.text
    assert re.findall(r"(?:src|href)=\W*([^\s>\"]+)", page.text) == ["openapi.json"]
    assert client.get("/redoc").status_code == 404, "FastAPI's other page needs the internet too"


def test_the_model_is_swapped_under_requests_and_none_is_lost(bundle: Path) -> None:
    service = make_service(bundle, "fp16", settings=ServiceSettings())
    with TestClient(create_app(service)) as client:
        first = client.get("/health").json()["model_version"]
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(client.post, "/predict", content=png(IMAGE)) for _ in range(40)]
            content = read_json(bundle / "metadata.json")
            content["precisions"]["fp16"]["threshold"] += 0.001
            write_json(bundle / "metadata.json", content)
            second = client.post("/model/reload").json()["model_version"]
            assert {future.result().status_code for future in answers} == {200}
        assert first != second == client.post("/predict", content=png(IMAGE)).json()["model_version"]
        assert client.post("/model/rollback").json()["model_version"] == first
        (bundle / "detector_fp16.xml").write_text("<net/>")
        refused = client.post("/model/reload")
        assert (refused.status_code, "detector_fp16.xml has SHA-256" in refused.text) == (409, True)
        assert client.post("/predict", content=png(IMAGE)).json()["model_version"] == first


def test_the_log_holds_every_score_and_rotates(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, rows=3, files=2)
    anomaly_map = np.zeros((80, 80), np.float32)
    anomaly_map[:10, 70:] = 0.64
    for index in range(8):
        answer = {"id": f"p{index}", "threshold": 0.45, "model_version": "v1", "precision": "fp16"}
        log.add(IMAGE, Detection(0.1 * index, index > 4, anomaly_map), answer)
    log.flush()
    files = sorted(tmp_path.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [3, 2], "the oldest of three is deleted"
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [row["score"] for row in rows] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert [row["id"] for row in rows] == ["p3", "p4", "p5", "p6", "p7"]
    assert rows[0]["grey_mean"] == pytest.approx(IMAGE.mean())
    assert rows[0]["embedding"] == pytest.approx([0.64 if cell == 7 else 0 for cell in range(64)], abs=1e-6)


def test_rows_reach_the_disk_while_the_line_is_slow(tmp_path: Path) -> None:
    now = 0.0
    log = PredictionLog(tmp_path, rows=4, files=9, seconds=60, clock=lambda: now)
    counts = []
    for index in range(6):
        now = 40.0 * index
        answer = {"id": f"p{index}", "threshold": 0.45, "model_version": "v1", "precision": "fp16"}
        log.add(IMAGE, Detection(0.1, False, np.zeros((80, 80), np.float32)), answer)
        counts.append(len(read_log(tmp_path)))
    # Written after 80 s, at the fourth row, after 160 s more than one minute later: never more often
    assert counts == [0, 0, 3, 4, 4, 6]
    assert len(list(tmp_path.glob("*.parquet"))) == 2, "four rows per file"
    assert read_log(tmp_path)["id"].tolist() == [f"p{index}" for index in range(6)]


def test_a_verdict_has_an_id_by_which_operators_answer(client: TestClient, service: Service) -> None:
    named = client.post("/predict", params={"id": "part 17.png"}, content=png(IMAGE)).json()
    other = client.post("/predict", content=png(IMAGE)).json()
    assert named["id"] == "part 17.png"
    assert len(other["id"]) == 32
    said = client.post("/feedback", json={"id": "part 17.png", "defective": True, "note": "Riß"})
    assert (said.status_code, said.json()) == (200, {"id": "part 17.png"})
    assert client.post("/feedback", json={"id": other["id"], "defective": True}).status_code == 200
    assert client.post("/feedback", json={"id": other["id"], "defective": False}).status_code == 200
    assert client.post("/feedback", json={"id": "x", "verdict": "good"}).status_code == 422
    assert service.log is not None
    service.log.flush()
    logged = read_log(service.log.folder)
    verdicts = read_feedback(service.log.folder)
    assert {"part 17.png", other["id"]} <= set(logged["id"])
    assert verdicts[["id", "defective", "note"]].values.tolist() == [
        ["part 17.png", True, "Riß"],
        [other["id"], False, ""],
    ]


def test_the_latest_images_are_kept_as_they_arrived(exported: Path, tmp_path: Path) -> None:
    """Images that are refused are not kept; a service that starts again counts those of the last one."""
    dark, bright = png(IMAGE // 8), png(IMAGE // 2 + 100)
    with TestClient(create_app(make_service(exported, "fp32", log=tmp_path, keep_frames=3))) as client:
        client.post("/predict", params={"id": "line/1: part \N{MIDDLE DOT}"}, content=png(IMAGE))
        client.post("/predict", params={"id": "broken"}, content=b"no image")
        client.post("/predict/batch", files=form(dark, b"no image", bright))
    kept = {name: kept_frame(tmp_path, name) for name in ("part-0.png", "part-1.png", "part-2.png")}
    assert kept["part-1.png"] is None
    assert kept_frame(tmp_path, "line/1: part \N{MIDDLE DOT}").read_bytes() == png(IMAGE)
    assert (kept["part-0.png"].read_bytes(), kept["part-2.png"].read_bytes()) == (dark, bright)
    with TestClient(create_app(make_service(exported, "fp32", log=tmp_path, keep_frames=3))) as client:
        client.post("/predict", params={"id": "part-0.png"}, content=dark)
        client.post("/predict", params={"id": "next"}, content=bright)
    assert kept_frame(tmp_path, "line/1: part \N{MIDDLE DOT}") is None
    assert len(list((tmp_path / "frames").iterdir())) == 3


def test_images_are_kept_beside_a_log_only(exported: Path) -> None:
    with pytest.raises(UserError, match="--log"):
        make_service(exported, "fp32", keep_frames=3)


def test_a_service_without_a_log_takes_no_feedback(exported: Path) -> None:
    service = make_service(exported, "fp32", settings=LIMITS)
    answer = TestClient(create_app(service)).post("/feedback", json={"id": "x", "defective": True})
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        "this service keeps no log: start it with --log FOLDER",
    )


def test_schemathesis_finds_nothing(service: Service) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
    # Bytes that are no image are refused, and so is a rollback with nothing to go back to; the schema cannot
    # say so
    unstated = [schemathesis.checks.positive_data_acceptance]
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(excluded_checks=unstated)

        check()
