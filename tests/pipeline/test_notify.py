"""Notices: always a line in the log, webhook and e-mail where the environment names them."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from metaldefect.errors import UserError
from pipeline.notify import NotifySettings, notify


@pytest.fixture(autouse=True)
def _no_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEBHOOK", "EMAIL", "SMTP", "FROM"):
        monkeypatch.delenv(f"METALDEFECT_NOTIFY_{name}", raising=False)


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Hook(BaseHTTPRequestHandler):
    received: list[dict[str, str]]

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


class BrokenHook(socketserver.StreamRequestHandler):
    """A proxy that speaks no HTTP."""

    def handle(self) -> None:
        self.connection.recv(65536)
        self.wfile.write(b"nonsense\r\n\r\n")


class Mailbox(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as one mail needs."""

    mails: list[str]

    def handle(self) -> None:
        def say(line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        say("220 test")
        while line := self.rfile.readline().decode().strip().upper():
            if line == "DATA":
                say("354 go on")
                lines: list[str] = []
                while (part := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    lines.append(part)
                self.mails.append("\n".join(lines))
            say("221 bye" if line == "QUIT" else "250 ok")
            if line == "QUIT":
                return


def test_a_notice_is_one_line_in_the_log(tmp_path: Path) -> None:
    assert notify("HOLD", "AUROC 0.69\nchampion 1.00", "warning", tmp_path) == []
    (line,) = (tmp_path / "logs/notices.log").read_text().splitlines()
    assert line.split(" ", 1)[1] == "warning HOLD | AUROC 0.69 | champion 1.00"


def test_a_webhook_receives_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hook.received = []
    with running(HTTPServer(("127.0.0.1", 0), Hook)) as port:
        monkeypatch.setenv("METALDEFECT_NOTIFY_WEBHOOK", f"http://127.0.0.1:{port}/hook")
        assert notify("PROMOTE", "0.98 over 0.95", root=tmp_path) == []
    (content,) = Hook.received
    assert (content["text"], content["level"]) == ("PROMOTE\n0.98 over 0.95", "info")


def test_a_webhook_that_answers_nonsense_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(socketserver.TCPServer(("127.0.0.1", 0), BrokenHook)) as port:
        monkeypatch.setenv("METALDEFECT_NOTIFY_WEBHOOK", f"http://127.0.0.1:{port}/hook")
        (failure,) = notify("PROMOTE", "0.98 over 0.95", root=tmp_path)
    assert failure.startswith("webhook: nonsense")


def test_an_e_mail_has_recipients_and_a_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Mailbox.mails = []
    with running(socketserver.TCPServer(("127.0.0.1", 0), Mailbox)) as port:
        monkeypatch.setenv("METALDEFECT_NOTIFY_SMTP", f"smtp://127.0.0.1:{port}")
        monkeypatch.setenv("METALDEFECT_NOTIFY_EMAIL", "shift@plant.example, lead@plant.example")
        assert notify("The worker is gone", "since 03:00", "error", tmp_path) == []
    (mail,) = Mailbox.mails
    assert "Subject: metaldefect error: The worker is gone" in mail
    assert "To: shift@plant.example, lead@plant.example" in mail
    assert "since 03:00" in mail


def test_a_channel_that_does_not_answer_is_logged_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_NOTIFY_WEBHOOK", "http://127.0.0.1:9/hook")
    monkeypatch.setenv("METALDEFECT_NOTIFY_SMTP", "smtp://127.0.0.1:9")
    monkeypatch.setenv("METALDEFECT_NOTIFY_EMAIL", "shift@plant.example")
    failures = notify("drift", root=tmp_path)
    assert [line.split(":")[0] for line in failures] == ["webhook", "e-mail"]
    log = (tmp_path / "logs/notices.log").read_text()
    assert "not sent by webhook | drift" in log
    assert "not sent by e-mail | drift" in log


@pytest.mark.parametrize(
    ("variable", "value"), [("WEBHOOK", "hooks.example/x"), ("SMTP", "mail.example:25"), ("SMTP", "http://m")]
)
def test_a_wrong_address_is_named(variable: str, value: str) -> None:
    with pytest.raises(UserError, match=f"METALDEFECT_NOTIFY_{variable}={value}: expected"):
        NotifySettings.of_environment({f"METALDEFECT_NOTIFY_{variable}": value})


def test_a_log_that_cannot_be_written_keeps_no_notice_from_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").write_text("a file where the folder belongs")
    Hook.received = []
    with running(HTTPServer(("127.0.0.1", 0), Hook)) as port:
        monkeypatch.setenv("METALDEFECT_NOTIFY_WEBHOOK", f"http://127.0.0.1:{port}/")
        (failure,) = notify("disk full", "a stage failed", "error", tmp_path)
    assert failure.startswith("log: ")
    assert [each["title"] for each in Hook.received] == ["disk full"]
