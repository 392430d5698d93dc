"""Notices to people: verdicts, drift, bad data, a schedule that did not fire.

Every notice is a line in `logs/notices.log`. It also goes to a webhook and by e-mail where the environment
names them:

- `METALDEFECT_NOTIFY_WEBHOOK`: URL that receives JSON; `text` is what Slack, Mattermost and Teams show
- `METALDEFECT_NOTIFY_EMAIL`: recipients, separated by commas
- `METALDEFECT_NOTIFY_SMTP`: `smtp://user:password@host:587` or `smtps://...`; default `smtp://localhost:25`
- `METALDEFECT_NOTIFY_FROM`: sender; default `metaldefect@<this machine>`
"""

from __future__ import annotations

import json
import os
import smtplib
import socket
import sys
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from metaldefect.config import Config
from metaldefect.errors import UserError, printable

PREFIX = "METALDEFECT_NOTIFY_"
LOG = Path("logs/notices.log")
TIMEOUT_SECONDS = 10.0

Level = Literal["info", "warning", "error"]


class NotifySettings(Config):
    """Where notices go beside the log.

    Attributes:
        webhook: URL that receives each notice as JSON.
        email: recipients.
        smtp: URL of the mail server; `smtps` encrypts from the start, `smtp` where the server offers it.
        sender: address that the mail comes from.
    """

    webhook: str | None = None
    email: tuple[str, ...] = ()
    smtp: str = "smtp://localhost:25"
    sender: str = f"metaldefect@{socket.gethostname()}"

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Settings from the variables above.

        Raises:
            UserError: a URL has no host or another scheme.
        """
        names = {"webhook": "WEBHOOK", "email": "EMAIL", "smtp": "SMTP", "sender": "FROM"}
        given = {
            name: environment[PREFIX + part] for name, part in names.items() if environment.get(PREFIX + part)
        }
        for name, schemes in (("webhook", ("http", "https")), ("smtp", ("smtp", "smtps"))):
            if name in given:
                check_url(PREFIX + names[name], given[name], schemes)
        recipients = tuple(word.strip() for word in given.pop("email", "").split(",") if word.strip())
        return cls.model_validate(given | {"email": recipients})


def check_url(variable: str, url: str, schemes: tuple[str, ...]) -> None:
    """Raise `UserError` unless a URL has a host and one of the schemes."""
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname:
        raise UserError(f"{variable}={url}: expected {' or '.join(f'{scheme}://host' for scheme in schemes)}")


def notify(title: str, text: str = "", level: Level = "info", root: Path | str = ".") -> list[str]:
    """Send a notice everywhere that the environment names, and write it to the log.

    A mail server that does not answer must not fail a training, so a channel that fails is a line in the log
    and in the answer, not an exception.

    Args:
        title: one line that says what happened.
        text: details, any number of lines.
        level: how bad it is.
        root: the project's folder, which holds the log.

    Returns:
        What went wrong, one line per channel that failed.
    """
    log = Path(root) / LOG
    failures = append(log, level, title, text)
    try:
        settings = NotifySettings.of_environment()
    except UserError as error:
        append(log, "error", "not sent", str(error))
        return [*failures, str(error)]
    for channel, send in (("webhook", send_webhook), ("e-mail", send_email)):
        try:
            send(settings, title, text, level)
        except (OSError, HTTPException, smtplib.SMTPException, ValueError) as error:
            failures.append(f"{channel}: {error}")
            append(log, "error", f"not sent by {channel}", f"{title}: {error}")
    return failures


def append(log: Path, level: str, title: str, text: str) -> list[str]:
    """Add one line to the log; returns what went wrong: a full disk must not keep a notice from people."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    message = printable(" | ".join([title, *text.splitlines()]))
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"{now} {level:<7} {message}\n")
    except OSError as error:
        print(f"{log} cannot be written: {error}", file=sys.stderr)
        return [f"log: {error}"]
    return []


def send_webhook(settings: NotifySettings, title: str, text: str, level: str) -> None:
    """POST the notice as JSON, if there is a webhook."""
    if settings.webhook is None:
        return
    content = {
        "text": f"{title}\n{text}".strip(),
        "title": title,
        "level": level,
        "host": socket.gethostname(),
    }
    request = urllib.request.Request(
        settings.webhook, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
        pass


def send_email(settings: NotifySettings, title: str, text: str, level: str) -> None:
    """Send the notice by e-mail, if there are recipients."""
    if not settings.email:
        return
    message = EmailMessage()
    message["Subject"] = f"metaldefect {level}: {' '.join(title.split())}"
    message["From"], message["To"] = settings.sender, ", ".join(settings.email)
    message.set_content(f"{title}\n\n{text}\n")
    parts = urlsplit(settings.smtp)
    encrypted = parts.scheme == "smtps"
    kind = smtplib.SMTP_SSL if encrypted else smtplib.SMTP
    with kind(
        parts.hostname or "localhost", parts.port or (465 if encrypted else 25), timeout=TIMEOUT_SECONDS
    ) as server:
        if not encrypted and server.has_extn("starttls"):
            server.starttls()
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(message)
