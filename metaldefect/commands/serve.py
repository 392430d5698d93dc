"""`metaldefect serve`: an exported detector over HTTP."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import uvicorn

from metaldefect.deploy.compiled import Compute
from metaldefect.deploy.follow import Follower
from metaldefect.deploy.frame_store import FRAMES, FrameStore
from metaldefect.deploy.live import LiveDetector
from metaldefect.deploy.prediction_log import PredictionLog
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.service import Service, ServiceSettings, create_app
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
    load = partial(Detector.load, precision=precision, compute=compute, public_key=public_key)
    # Where a link leads is asked once per load, so that all files are of one bundle
    live = LiveDetector(lambda: load(model.resolve()))
    frames = FrameStore(log / FRAMES, keep_frames) if log and keep_frames else None
    service = Service(live, settings or ServiceSettings(), PredictionLog(log) if log else None, frames)
    if challenger is not None:
        service.challenge(load(challenger))
    return service


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
    """Serve until SIGTERM or Ctrl-C; requests in work are finished.

    Arguments as for `make_service`; with `follow`, another bundle in the folder is swapped in as it appears.
    """
    service = make_service(
        model, precision, public_key, challenger, log, compute=compute, keep_frames=keep_frames
    )
    print(f"{model} {precision}, version {service.live.current.version}: http://{host}:{port}/docs")
    with Follower(service, model) if follow else nullcontext():
        uvicorn.run(create_app(service), host=host, port=port, timeout_graceful_shutdown=GRACE_SECONDS)
