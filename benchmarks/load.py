"""Many requests at once to a server process, and its memory meanwhile."""

from __future__ import annotations

import itertools
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil

from metaldefect.errors import UserError

START_SECONDS = 180
STOP_SECONDS = 60


class Outcome(NamedTuple):
    """What became of one request: its answer, or why there is none."""

    number: int
    seconds: float
    answer: Any = None
    error: str | None = None


def send_all(
    count: int,
    concurrency: int,
    new_user: Callable[[], Callable[[int], Any]],
    progress: Callable[[int], object] = lambda done: None,
) -> list[Outcome]:
    """Send requests, several at once, and return their outcomes in the order of their numbers.

    Args:
        count: of requests.
        concurrency: users that send one request after the other.
        new_user: makes a function that sends request `number` and returns the answer; called once per user.
        progress: receives the number of finished requests after each.
    """
    numbers, finished = itertools.count(), itertools.count(1)

    def user(_index: int) -> list[Outcome]:
        send, found = new_user(), []
        while (number := next(numbers)) < count:
            started = time.perf_counter()
            try:
                answer, error = send(number), None
            except Exception as problem:  # a lost request is a result here
                answer, error = None, f"{type(problem).__name__}: {problem}"
            found.append(Outcome(number, time.perf_counter() - started, answer, error))
            progress(next(finished))
        return found

    with ThreadPoolExecutor(concurrency) as pool:
        return sorted(itertools.chain.from_iterable(pool.map(user, range(concurrency))))


class MemoryWatch:
    """Samples the resident memory of a process and its children while the block runs.

    Args:
        pid: the process.
        interval: seconds between two samples.
    """

    def __init__(self, pid: int, interval: float = 0.25) -> None:
        self.process, self.interval = psutil.Process(pid), interval
        self.samples: list[float] = []  # MiB
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            with suppress(psutil.NoSuchProcess):  # a child that ended meanwhile
                family = [self.process, *self.process.children(recursive=True)]
                self.samples.append(sum(member.memory_info().rss for member in family) / 2**20)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def memory_figures(samples: Sequence[float]) -> dict[str, float]:
    """`memory_mb`, the median of the last quarter of the samples, and how much it exceeds the second's.

    The first quarter, in which caches fill, does not count.
    """
    quarter = max(1, len(samples) // 4)
    before, after = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    last = statistics.median(after)
    return {"memory_mb": last, "memory_growth_mb": last - statistics.median(before)}


@contextmanager
def served(command: Sequence[str], path: str = "/", cwd: Path | None = None) -> Iterator[tuple[str, int]]:
    """Start a server, wait until it answers, yield its address and process id, and stop it with SIGTERM.

    Args:
        command: starts the server; `{port}` in it becomes a free port.
        path: of the address that answers as soon as the server is ready.
        cwd: its working directory.

    Raises:
        UserError: the server ends before it answers.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([word.replace("{port}", str(port)) for word in command], cwd=cwd)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(address + path):
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError("the server did not start: its message is above")
            time.sleep(0.1)
        yield address, server.pid
        server.terminate()
        server.wait(STOP_SECONDS)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def answers(address: str) -> bool:
    """Whether a server answers."""
    try:
        urllib.request.urlopen(address, timeout=5)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
    return True
