"""`python -m benchmarks.service`: does the service lose a request while its model is swapped?

Starts `metaldefect serve` with an untrained EfficientAD-S at 128 px (or `--bundle`), sends 10,000 images at
concurrency 8, and swaps the model ten times meanwhile, back and forth between two bundles. It counts requests
without a right answer (status 200 and the score that the image always gets) and rows of the log, and compares
the server's memory in the last quarter of the time with the second quarter. Writes
`benchmarks/results/service.json`, and exits with 1 if an answer is lost or wrong, a row is missing in the
log, or memory grew by more than a tenth.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.edge import export_untrained
from benchmarks.load import MemoryWatch, Outcome, memory_figures, send_all, served
from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import METADATA, TOLERANCES, Tolerance, bundle_version, read_metadata
from metaldefect.deploy.prediction_log import read_log
from metaldefect.errors import exit_on_user_error
from metaldefect.procedural.images import generate_normal_image

SIZE = 128
TIMEOUT = 60
MAX_GROWTH = 0.1  # of the memory at the end; allocators keep a few MB that they freed


def two_versions(bundle: Path, folder: Path) -> list[Path]:
    """Two copies of a bundle that differ in their thresholds, so in their versions."""
    copies = [Path(shutil.copytree(bundle, folder / name)) for name in ("one", "two")]
    content = read_json(copies[1] / METADATA)
    for precision in content["precisions"].values():
        precision["threshold"] += 0.001
    write_json(copies[1] / METADATA, content)
    return copies


class Line:
    """A line whose detector is where a link leads.

    Args:
        link: the served folder.
        versions: bundles to swap between.
    """

    def __init__(self, link: Path, versions: Sequence[Path]) -> None:
        self.link, self.versions, self.swaps = link, versions, 0
        link.symlink_to(versions[0])

    def swap(self, port: int) -> None:
        """Let the link lead to the other bundle, and have it loaded.

        Raises:
            RuntimeError: the service does not answer with the new version.
        """
        self.swaps += 1
        target = self.versions[self.swaps % len(self.versions)]
        new = self.link.with_suffix(".new")
        new.symlink_to(target)
        new.replace(self.link)
        answer = post(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT), "/model/reload", b"")
        if answer["model_version"] != bundle_version(target):
            raise RuntimeError(f"reload answered {answer}, expected {bundle_version(target)}")


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> dict[str, Any]:
    """The JSON answer to a POST; raises RuntimeError for another status than 200."""
    connection.request("POST", path, body)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {text.decode(errors='replace')[:200]}")
    return dict(json.loads(text))


def load_test(
    bundle: Path, folder: Path, requests: int, concurrency: int, swaps: int, precision: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Serve a bundle, send requests, swap the model; figures and details.

    Args:
        bundle: the detector; its golden frames are the images.
        folder: an empty folder for copies and logs.
        requests: to send.
        concurrency: users at once.
        swaps: of the model, evenly spread.
        precision: of the graph.
    """
    line = Line(folder / "live", two_versions(bundle, folder))
    golden = read_metadata(bundle).golden
    images = [(bundle / "golden" / frame.file).read_bytes() for frame in golden]
    expected = [frame.scores[precision] for frame in golden]
    command = [
        sys.executable, "-m", "pipeline.cli", "serve", "--model", str(line.link), "--precision", precision,
        "--port", "{port}", "--log", str(folder / "log"),
    ]  # fmt: skip
    swap_at = {round((k + 1) * requests / (swaps + 1)) for k in range(swaps)}
    with served(command, "/ready") as (address, pid), tqdm(total=requests, desc="requests") as bar:
        port = int(address.rpartition(":")[2])

        def new_user() -> Callable[[int], dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            return lambda number: post(connection, f"/predict?id=part-{number}", images[number % len(images)])

        def progress(done: int) -> None:
            bar.update()
            if done in swap_at:
                line.swap(port)

        with MemoryWatch(pid) as memory:
            outcomes = send_all(requests, concurrency, new_user, progress)
    figures = summarise(outcomes, expected, TOLERANCES[precision]) | memory_figures(memory.samples)
    rows = read_log(folder / "log")
    figures |= {"swaps": line.swaps, "concurrency": concurrency, "logged": int(rows["id"].nunique())}
    errors = sorted({outcome.error for outcome in outcomes if outcome.error is not None})
    return figures, {"errors": errors[:20], "memory_mb": [round(sample, 1) for sample in memory.samples]}


def summarise(outcomes: Sequence[Outcome], expected: Sequence[float], tolerance: Tolerance) -> dict[str, Any]:
    """Lost requests, wrong scores, versions and latencies.

    Args:
        outcomes: of all requests; request k is of image k modulo their number.
        expected: score of each image.
        tolerance: by which the service's own self-test judges its scores.
    """
    answered = [outcome for outcome in outcomes if outcome.error is None]
    wrong = [
        outcome
        for outcome in answered
        if not tolerance.allows(outcome.answer["score"], expected[outcome.number % len(expected)])
        or outcome.answer["id"] != f"part-{outcome.number}"
    ]
    milliseconds = [1000 * outcome.seconds for outcome in answered]
    latencies = {}
    if answered:
        latencies = {
            "versions": len({outcome.answer["model_version"] for outcome in answered}),
            "p50_ms": statistics.median(milliseconds),
            "p99_ms": float(np.quantile(milliseconds, 0.99)),
        }
    return {
        "requests": len(outcomes),
        "lost": len(outcomes) - len(answered),
        "wrong": len(wrong),
        **latencies,
    }


def failures(figures: Mapping[str, Any]) -> list[str]:
    """What the service did not keep, in words: every request answered right and logged, with flat memory."""
    requests, memory = figures["requests"], figures["memory_mb"]
    growth, limit = figures["memory_growth_mb"], MAX_GROWTH * memory
    grew = f"memory grew by {growth:.0f} MB to {memory:.0f} MB, at most {limit:.0f} MB are allowed"
    checks = {
        f"{figures['lost']} of {requests} requests lost": figures["lost"] > 0,
        f"{figures['wrong']} of {requests} answers wrong": figures["wrong"] > 0,
        f"{figures['logged']} of {requests} answers logged": figures["logged"] < requests - figures["lost"],
        grew: growth > limit,
    }
    return [words for words, failed in checks.items() if failed]


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--precision", default="int8", help="(default: %(default)s)")
    parser.add_argument("--bundle", type=Path, help="an exported detector, instead of an untrained one")
    add_results_argument(parser, "service")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="service-") as name:
        folder, bundle = Path(name), arguments.bundle
        if bundle is None:
            frames = np.stack([generate_normal_image(np.random.default_rng(seed), SIZE) for seed in range(4)])
            bundle = folder / "untrained"
            export_untrained(bundle, SIZE, frames)
        (folder / "work").mkdir()
        figures, details = load_test(
            bundle, folder / "work", arguments.requests, arguments.concurrency, arguments.swaps,
            arguments.precision,
        )  # fmt: skip
    publish(arguments.results, "service", figures, details)
    if failed := failures(figures):
        sys.exit(f"benchmarks.service: {'; '.join(failed)}")


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.service"):
        main()
