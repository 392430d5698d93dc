"""Checks of what the demo is started with. Imports nothing large, so that a mistake is told at once."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from metaldefect.errors import UserError

PASSWORD_VARIABLE = "METALDEFECT_DEMO_PASSWORD"
USER = "metaldefect"


def check_address(host: str, port: int | None) -> None:
    """Check that the page may and can be served there; without a port, Gradio looks for a free one.

    Raises:
        UserError: other machines could reach `host` and no password is set, or nothing can listen there.
    """
    if not os.environ.get(PASSWORD_VARIABLE) and not is_loopback(host):
        raise UserError(f"{host} is reachable by others: set {PASSWORD_VARIABLE} first (user: {USER})")
    if port is not None:
        check_free(host, port)


def check_free(host: str, port: int) -> None:
    """Raise `UserError` if nothing can listen there; Gradio's own message names a variable without effect."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address[0], port))  # `address` holds a port beyond 65535 cut to 16 bits
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}:{port} ({reason}): choose another --port or --host"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_finished(runs: Sequence[Path]) -> None:
    """Raise `UserError` for the first folder without an exported detector: it is no finished run."""
    for run in runs:
        if not (run / "models/openvino").is_dir():
            raise UserError(f"{run} holds no models/openvino: name the folder of a finished run")
