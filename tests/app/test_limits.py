"""The demo's limits: a password, the size of uploads, the length of the queue."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AuthenticationError
from gradio_client.utils import QueueError

from app.arguments import PASSWORD_VARIABLE, USER
from app.demo import WAITING, build_without_models, serve

ROOT = Path(__file__).parents[2]
LARGEST = 40 * 2**20  # bytes; docs/demo.md says 40 MB


@contextmanager
def served(page: gr.Blocks) -> Iterator[str]:
    """The address of a page while it is served."""
    _, url, _ = serve(page, port=None, prevent_thread_lock=True, quiet=True)
    try:
        yield url.rstrip("/")
    finally:
        page.close()


def status_of(request: str | urllib.request.Request) -> int:
    """The status of the answer to a request."""
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def upload(address: str, size: int) -> int:
    """The status of the answer to an upload of so many bytes."""
    head = (
        '--edge\r\nContent-Disposition: form-data; name="files"; filename="photo.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + bytes(size) + b"\r\n--edge--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    return status_of(urllib.request.Request(f"{address}/gradio_api/upload", body, kind))


def test_a_password_from_the_environment_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "steel")
    with served(build_without_models("none")) as address:
        for path in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd"):
            assert status_of(f"{address}/{path}") == 401
        assert upload(address, 10) == 401
        with pytest.raises(AuthenticationError):
            Client(address, verbose=False)
        for wrong in ((USER, "iron"), ("root", "steel")):
            with pytest.raises(ValueError, match="Could not login"):
                Client(address, verbose=False, auth=wrong)
        assert Client(address, verbose=False, auth=(USER, "steel")).config["title"]


def test_without_a_password_this_machine_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with served(build_without_models("none")) as address:
        assert status_of(f"{address}/config") == 200


def test_uploads_end_at_forty_megabytes(address: str) -> None:
    assert upload(address, LARGEST) == 200
    assert upload(address, LARGEST + 1) == 413


def test_requests_beyond_the_queue_are_told_to_come_back() -> None:
    go_on = threading.Event()

    def hold() -> None:
        go_on.wait(60)

    with gr.Blocks() as page:
        gr.Button().click(hold, api_name="hold")
    requests = WAITING + 4
    with served(page) as address, ThreadPoolExecutor(requests) as pool:
        client = Client(address, verbose=False)
        futures = [pool.submit(client.predict, api_name="/hold") for _ in range(requests)]
        refused = 0
        try:
            for future in as_completed(futures, timeout=60):
                refused += isinstance(future.exception(), QueueError)
                if refused == 3:  # one is being answered, WAITING wait
                    go_on.set()
        finally:
            go_on.set()
        kinds = {type(future.exception()) for future in futures}
    assert kinds == {QueueError, type(None)}
    assert refused in (3, 4)  # the fourth, if all came before the first was taken from the queue


def test_the_command_lets_others_in_with_a_password_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    command = [sys.executable, "-m", "pipeline.cli", "demo", "--root", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"demo: 0.0.0.0 is reachable by others: set {PASSWORD_VARIABLE} first" in done.stderr
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert PASSWORD_VARIABLE in shown.stdout


def test_a_taken_port_or_a_foreign_address_is_one_line_that_says_what_to_choose(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for where, reason in {
            ("127.0.0.1", port): "Address already in use",
            ("localhost", 99999): "port",
        }.items():
            command = [sys.executable, "-m", "app", "--root", str(tmp_path)]
            command += ["--host", where[0], "--port", str(where[1])]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 1
            (line,) = done.stderr.strip().splitlines()
            assert line.startswith(f"demo: cannot listen on {where[0]}:{where[1]} (")
            assert reason in line
            assert line.endswith("choose another --port or --host")


def test_a_mistake_is_told_before_anything_large_is_imported(tmp_path: Path) -> None:
    for given in (["--host", "0.0.0.0"], ["--port", "0", "--compare", str(tmp_path)]):
        code = (
            "import atexit, sys, app.__main__;"
            "atexit.register(lambda: print({'torch', 'gradio', 'numpy'} & set(sys.modules)));"
            f"sys.argv = ['app', *{given}]; app.__main__.main()"
        )
        environment = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stdout.strip() == "set()", done.stderr


def test_the_folder_of_uploads_goes_with_the_page(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    log = tmp_path / "log"
    with log.open("w") as stderr:
        page = subprocess.Popen(
            [sys.executable, "-m", "app", "--root", str(tmp_path), "--port", str(port)],
            cwd=ROOT,
            env=environment | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                assert status_of(f"http://127.0.0.1:{port}/") == 200
                break
            except OSError:
                time.sleep(0.2)
        assert list(tmp_path.glob("metaldefect-demo-cache-*"))
        assert "run `dvc repro` first" in log.read_text(), "in the folder of --root, not in this one"
        page.terminate()
        assert page.wait(60) == 0
    finally:
        page.kill()
    assert not list(tmp_path.glob("metaldefect-demo-cache-*"))
