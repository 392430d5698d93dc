"""`metaldefect serve` as a process: SIGTERM ends it, but no request."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load import answers
from metaldefect.deploy.prediction_log import read_log
from metaldefect.deploy.service import ServiceSettings

PLACES = ServiceSettings().max_waiting
SECONDS = 120  # for each step, on a busy machine


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def status_of(address: str) -> int:
    """The status that an address answers with."""
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait_until(holds: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    """Wait for something that happens while the server lives."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert server.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def begin(port: int, part: int, body: bytes) -> http.client.HTTPConnection:
    """Send a request but for its last byte, so that it is in work for as long as the test wants."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.putrequest("POST", f"/predict?id=part-{part}")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:-1])
    return connection


def test_sigterm_finishes_the_requests_in_work_and_exits_with_0(exported: Path, tmp_path: Path) -> None:
    """The service also starts without the challenger that it is to follow."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "pipeline.cli", "serve", "--model", str(exported), "--port", str(port),
        "--follow", "--challenger", str(tmp_path / "none yet"), "--log", str(tmp_path / "log"),
    ]  # fmt: skip
    address, body = f"http://127.0.0.1:{port}", png()
    server = subprocess.Popen(command)
    try:
        wait_until(lambda: answers(f"{address}/ready"), server)
        requests = [begin(port, part, body) for part in range(PLACES)]
        wait_until(lambda: status_of(f"{address}/ready") == 503, server)  # all of them hold a place
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: not answers(f"{address}/health"), server)  # nobody else is let in
        for part, request in enumerate(requests):
            request.send(body[-1:])
            answer = request.getresponse()
            assert (answer.status, json.load(answer)["id"]) == (200, f"part-{part}")
        assert server.wait(SECONDS) == 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    assert len(read_log(tmp_path / "log")) == PLACES, "the log is written at the end"
