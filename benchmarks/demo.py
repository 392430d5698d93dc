"""`python -m benchmarks.demo`: how long the demo makes people wait, and whether it loses a request.

Serves the demo of a finished run (`--root`), and measures the cold start to an answering page, one
inpainting for a program, what a person who paints a mask waits for (the same, with both verdicts, the
animation and the files to download), and a grid of nine images with the page's settings. Then it sends
200 requests of all kinds at concurrency 4, and compares the server's memory in the last quarter of the time
with the second quarter.
Writes `benchmarks/results/demo.json`, and exits with 1 if a request was lost or memory grew by more than
64 MiB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradio_client import Client, handle_file
from tqdm import tqdm

from app.results import mvtec_zip, write_animation, write_image
from app.studio import Mask, Settings, Studio, draw_defect, inspect_image
from benchmarks.load import MemoryWatch, memory_figures, send_all, served
from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json
from metaldefect.errors import UserError, exit_on_user_error
from metaldefect.hardware import set_threads
from metaldefect.images import read_grey, read_image, write_png
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.painter import load_painter

PAGE_STEPS = 16
GRID = 9
MAX_GROWTH_MB = 64  # allocators keep some of what they freed: about 12 over 200 requests
GOOD_IMAGES, MASKGIT = Path("data/merged/inspection/test/good"), Path("models/maskgit/config.json")


class Visitor:
    """A program that uses the demo's endpoints in turn.

    Args:
        address: of the page.
        image: file of a good image.
        mask: file of a mask of its size.
        label: class to draw.
        steps: of MaskGIT.
    """

    def __init__(self, address: str, image: Path, mask: Path, label: str, steps: int = PAGE_STEPS) -> None:
        self.client = Client(address, verbose=False)
        self.image, self.mask = handle_file(image), handle_file(mask)
        self.label, self.steps = label, steps
        self.tokens = self.encode(0)["tokens"]

    def __call__(self, number: int) -> Any:
        """Send request `number`; raises for a refusal."""
        kinds = (self.inpaint, self.encode, self.decode, self.visualize)
        return kinds[number % len(kinds)](number)

    def inpaint(self, number: int) -> Any:
        """Draw a defect with seed `number`."""
        given = {"image": self.image, "mask": self.mask, "label": self.label, "seed": str(number)}
        return self.client.predict(**given, steps=self.steps, api_name="/inpaint_image")

    def encode(self, _number: int) -> Any:
        """The image's tokens."""
        return self.client.predict(image=self.image, api_name="/encode_to_tokens")

    def decode(self, _number: int) -> Any:
        """The image again."""
        return self.client.predict(tokens=self.tokens, light=self.image, api_name="/decode_from_tokens")

    def visualize(self, _number: int) -> Any:
        """The mask in red."""
        return self.client.predict(image=self.image, mask=self.mask, api_name="/visualize_mask_on_image")


def load_test(
    new_user: Callable[[], Callable[[int], Any]], pid: int, requests: int, concurrency: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send mixed requests; figures and details.

    Args:
        new_user: makes a `Visitor`.
        pid: of the server.
        requests: to send.
        concurrency: visitors at once.
    """
    with MemoryWatch(pid) as memory, tqdm(total=requests, desc="requests") as bar:
        outcomes = send_all(requests, concurrency, new_user, lambda done: bar.update())
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    figures = {
        "requests": requests,
        "concurrency": concurrency,
        "lost": len(errors),
        "p50_s": statistics.median(outcome.seconds for outcome in outcomes),
    }
    return figures | memory_figures(memory.samples), {"errors": errors[:20]}


def grid_seconds(root: Path) -> float:
    """Seconds for nine images of a class with the page's settings."""
    painter = load_painter(root / "models/vq", root / "models/maskgit")
    sampling = SamplingConfig(steps=PAGE_STEPS, guidance=2.0, temperature=0.7)

    def draw(count: int, seed: int) -> float:
        labels = torch.full((count,), len(painter.classes) - 1)
        started = time.perf_counter()
        painter.sample(labels, range(count), sampling, seed)
        return time.perf_counter() - started

    draw(1, 0)  # the first one also sets up memory
    return draw(GRID, 1)


def page_seconds(root: Path, folder: Path, image: Path, mask: Mask, label: str, draws: int = 5) -> float:
    """Median seconds that a person waits after pressing the button of the tab Paint a defect.

    A first draw, which also sets up memory, does not count.

    Args:
        root: folder of a finished run.
        folder: to write the files to that the page offers.
        image: file of a good image.
        mask: `bool [H, W]` of its size.
        label: class to draw.
        draws: timed ones, each with its own seed.
    """
    studio = Studio(root)
    good = read_image(image, studio.channels)
    times = []
    for seed in range(draws + 1):
        settings, results = Settings(seed, steps=PAGE_STEPS), folder / f"page{seed}"
        results.mkdir()
        started = time.perf_counter()
        drawn = draw_defect(studio, good, mask, label, settings)
        for shown in (good, drawn.image):
            inspect_image(studio.detector, shown)
        write_animation(results, drawn.steps)
        write_image(results, "image", drawn.image)
        write_image(results, "mask", drawn.changed)
        mvtec_zip(results, good, drawn, label, settings)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def measure(
    root: Path, folder: Path, requests: int, concurrency: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All figures, and details."""
    examples = sorted((root / GOOD_IMAGES).glob("*.png"))
    if not examples or not (root / MASKGIT).is_file():
        raise UserError(f"{root} holds no good test images or no MaskGIT: name the folder of a finished run")
    label = read_json(root / MASKGIT)["classes"][-1]
    height, width = read_grey(examples[0]).shape
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : height // 2, width // 3 : 2 * width // 3] = 255
    write_png(folder / "mask.png", mask)
    command = [sys.executable, "-m", "app", "--root", str(root), "--port", "{port}"]
    started = time.perf_counter()
    with served(command) as (address, pid):
        figures: dict[str, Any] = {"cold_start_s": time.perf_counter() - started}

        def new_user() -> Visitor:
            return Visitor(address, examples[0], folder / "mask.png", label)

        visitor, times = new_user(), []
        for seed in range(6):
            begin = time.perf_counter()
            visitor.inpaint(seed)
            times.append(time.perf_counter() - begin)
        figures["inpainting_s"] = statistics.median(times[1:])  # the first one also sets up memory
        found, details = load_test(new_user, pid, requests, concurrency)
    figures["page_inpainting_s"] = page_seconds(root, folder, examples[0], mask > 0, label)
    return figures | {"grid_of_nine_s": grid_seconds(root)} | found, details


def failures(figures: Mapping[str, Any]) -> list[str]:
    """What the demo did not keep, in words: every request answered, with flat memory."""
    growth = figures["memory_growth_mb"]
    checks = {
        f"{figures['lost']} of {figures['requests']} requests lost": figures["lost"] > 0,
        f"memory grew by {growth:.0f} MiB, at most {MAX_GROWTH_MB} MiB are allowed": growth > MAX_GROWTH_MB,
    }
    return [words for words, failed in checks.items() if failed]


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of a finished run")
    parser.add_argument("--requests", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=4, help="(default: %(default)s)")
    add_results_argument(parser, "demo")
    arguments = parser.parse_args()
    set_threads()
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        figures, details = measure(arguments.root, Path(folder), arguments.requests, arguments.concurrency)
    publish(arguments.results, "demo", figures, details)
    if failed := failures(figures):
        sys.exit(f"benchmarks.demo: {'; '.join(failed)}")


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.demo"):
        main()
