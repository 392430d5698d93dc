"""Divide the minutes that `metaldefect train --minutes` may compute between training and what follows it."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork
from metaldefect.errors import UserError
from metaldefect.hardware import device
from metaldefect.images import ImageSize, height_and_width, to_imagenet_range
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.training.callbacks import ComputingTime

TIMED_IMAGES = 2
FIXED_SECONDS = 40.0  # figures, converting the graphs
SPARE = 1.25  # machines slow down when they are warm
SHORTEST_TRAINING = 20.0
TRAINING_SHARE = 0.25  # of the minutes: for less, images are made smaller


class Stopwatch:
    """Seconds on the clock, or seconds of processor time if those are fewer.

    On an idle machine this is the clock. While other programs hold the processors, it stands still, so a busy
    machine does not shorten the training.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin at zero."""
        self.clock, self.processor = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return min(time.monotonic() - self.clock, time.process_time() - self.processor)


class TrainingClock(ComputingTime):
    """Stops a training at a limit of `Stopwatch` seconds, counted over all its resumed runs."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self.watch = Stopwatch()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.watch.restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.seconds += self.watch.seconds
        self.watch.restart()
        if self.share >= 1:
            trainer.should_stop = True


class Budget:
    """The time of a run from its start to its end.

    Args:
        minutes: the limit; None: no limit, only counts.
    """

    def __init__(self, minutes: float | None) -> None:
        self.limit = None if minutes is None else 60.0 * minutes
        self.watch, self.wall = Stopwatch(), time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.watch.seconds

    def in_words(self) -> str:
        """What the run took."""
        wall = time.monotonic() - self.wall
        others = (wall - self.spent) / 60
        took = f"{wall / 60:.1f} minutes"
        return took if others < 0.1 else f"{took}, of which other programs held the machine for {others:.1f}"

    def reserve(self, passes: int, second_per_image: float, same_again: float = 0.0) -> float:
        """Seconds to keep for what follows the training, see `clock_for_training`."""
        return SPARE * (FIXED_SECONDS + same_again + passes * second_per_image)

    def allows(self, passes: int, second_per_image: float) -> bool:
        """Whether so many passes leave a quarter of the time to train."""
        if self.limit is None:
            return True
        return self.spent + self.reserve(passes, second_per_image) <= (1 - TRAINING_SHARE) * self.limit

    def clock_for_training(
        self, passes: int, second_per_image: float, same_again: float
    ) -> TrainingClock | None:
        """A clock that leaves enough time for what follows the training; None without a limit.

        Args:
            passes: images to score after the training, each exported graph counted.
            second_per_image: of one pass, from `seconds_per_image`.
            same_again: seconds that reading and measuring the test set took for the memory bank.

        Raises:
            UserError: hardly any time would be left to train.
        """
        if self.limit is None:
            return None
        reserve = self.reserve(passes, second_per_image, same_again)
        left = self.limit - self.spent - reserve
        if left < SHORTEST_TRAINING:
            rest = (self.spent + reserve) / 60
            raise UserError(
                f"--minutes {self.limit / 60:g} leaves no time to train: reading the images, evaluation and"
                f" export take about {rest:.1f} minutes; give at least {np.ceil(rest + 1):.0f}"
            )
        print(
            f"training for {left / 60:.1f} of {self.limit / 60:g} minutes; {reserve / 60:.1f} are kept for"
            " evaluation and export",
            flush=True,
        )
        return TrainingClock(left)


@torch.inference_mode()
def seconds_per_image(teacher: PatchDescriptionNetwork, size: ImageSize) -> float:
    """Seconds to score one image with untrained networks of the teacher's size, as test images are scored."""
    model = EfficientAD(teacher.size, teacher.padding, teacher.count_include_pad).eval().to(device())
    image = to_imagenet_range(np.zeros((1, *height_and_width(size)), np.uint8)).to(device())
    with cpu_kernels(model, enabled=is_on_cpu(model)):
        model(image)
        watch = Stopwatch()
        for _ in range(TIMED_IMAGES):
            model(image)
        return watch.seconds / TIMED_IMAGES
