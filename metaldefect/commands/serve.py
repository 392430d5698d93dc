"""`metaldefect serve`: an exported detector over HTTP."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvicorn

from metaldefect.deploy.bundle import METADATA
from metaldefect.deploy.compiled import Compute
from metaldefect.deploy.follow import ChallengerFollower, Follower
from metaldefect.deploy.frame_store import FRAMES, FrameStore
from metaldefect.deploy.live import LiveDetector
from metaldefect.deploy.prediction_log import PredictionLog
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.service import Service, ServiceSettings
from metaldefect.deploy.service_routes import create_app
from metaldefect.errors import UserError

GRACE_SECONDS = 30


def make_service(
    model: Path,
    precision: str,
    public_key: Path | None = None,
    challenger: Path | None = None,
    log: Path | None = None,
    settings: ServiceSettings | None = None,
    compute: Compute | None = None,
    keep_frames: int = 0,
) -> Service:
    """Load the detectors and make the service.

    Args:
        model: an exported detector.
        precision: which graph to run.
        public_key: the detectors must be signed by its owner.
        challenger: an exported detector that scores the same images without a say.
        log: folder for Parquet files of all scores.
        settings: limits.
        compute: device, hint, threads and cache; None: many images at once on the CPU.
        keep_frames: number of images to keep beside the log, as they arrived.

    Raises:
        UserError: a bundle is refused; or images are to be kept without a log.
    """
    if keep_frames and log is None:
        raise UserError("--keep-frames keeps images beside the log of scores: name its folder with --log")
    compute = compute or Compute("THROUGHPUT")
    live = LiveDetector(loader(model, precision, compute, public_key))
    frames = FrameStore(log / FRAMES, keep_frames) if log and keep_frames else None
    service = Service(live, settings or ServiceSettings(), PredictionLog(log) if log else None, frames)
    if challenger is not None:
        service.challenge(loader(challenger, precision, compute, public_key)())
    return service


def loader(folder: Path, precision: str, compute: Compute, public_key: Path | None) -> Callable[[], Detector]:
    """A function that loads the bundle in a folder, self-test included."""
    # Where a link leads is asked once per load, so that all files are of one bundle
    return lambda: Detector.load(folder.resolve(), precision, compute, public_key=public_key)


def run_service(
    model: Path,
    precision: str,
    host: str,
    port: int,
    compute: Compute,
    public_key: Path | None,
    challenger: Path | None,
    log: Path | None,
    follow: bool,
    keep_frames: int = 0,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in work are finished, and the process exits with 0.

    Arguments as for `make_service`. With `follow`, another bundle that appears in the folder is swapped in; a
    challenger may appear, change and go, and need not be there at the start.
    """
    is_late = follow and challenger is not None and not (challenger / METADATA).is_file()
    first = None if is_late else challenger
    service = make_service(model, precision, public_key, first, log, compute=compute, keep_frames=keep_frames)
    print(f"{model} {precision}, version {service.live.current.version}: http://{host}:{port}/docs")
    # uvicorn ends gracefully and then raises the signal again, for whoever handles it
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with ExitStack() as followers:
        if follow:
            followers.enter_context(Follower(service, model))
        if follow and challenger is not None:
            load = loader(challenger, precision, compute, public_key)
            followers.enter_context(ChallengerFollower(service, challenger, load))
        uvicorn.run(create_app(service), host=host, port=port, timeout_graceful_shutdown=GRACE_SECONDS)
