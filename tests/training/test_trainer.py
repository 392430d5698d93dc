"""The trainer: exact steps, batches by step, the stop on numbers that are not finite, its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError
from metaldefect.training.average import WeightAverage
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.data import ImageFiles, LazyImages, Prefetcher, SampledBatches
from metaldefect.training.module import Trainee
from metaldefect.training.schedule import warmup_cosine
from metaldefect.training.trainer import LAST, fit


class Line(Trainee):
    """Fits a line; `spoil` may change the loss of a step."""

    def __init__(self, spoil: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Linear(1, 1)
        self.average = WeightAverage(self.model, 0.9)
        self.seen: list[int] = []
        self.spoil = spoil

    def content(self) -> Mapping[str, Any]:
        return {"settings": "line"}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.01)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.seen += [int(value) for value in batch]
        loss = (self.model(batch.float()[:, None]) - 2 * batch.float()[:, None]).square().mean()
        self.log("loss", loss.detach())
        return loss if self.spoil is None else self.spoil(loss, self.step)


def numbers(batch_size: int = 2) -> SampledBatches:
    return SampledBatches(torch.arange(10), batch_size, seed=5)


@pytest.mark.parametrize(("steps", "epoch_steps"), [(100, 30), (7, 7), (5, 30)])
def test_exactly_the_steps_asked_for_are_trained(steps: int, epoch_steps: int, tmp_path: Path) -> None:
    module = Line()
    history = fit(
        module, numbers(), steps=steps, epoch_steps=epoch_steps, seed=0, checkpoint_directory=tmp_path
    )
    assert module.step == len(module.seen) / 2 == steps
    assert torch.load(tmp_path / LAST, weights_only=True)["step"] == steps
    assert history[-1]["step"] == steps


def test_more_steps_go_on_with_a_training_that_ended_inside_an_epoch(tmp_path: Path) -> None:
    def run(folder: str, steps: int) -> Line:
        module = Line()
        fit(module, numbers(), steps=steps, epoch_steps=4, seed=0, checkpoint_directory=tmp_path / folder)
        return module

    run("a", 6)
    longer, straight = run("a", 11), run("b", 11)
    assert longer.seen == straight.seen[12:]
    assert torch.equal(longer.model.weight, straight.model.weight)


def test_every_item_comes_once_before_any_comes_again() -> None:
    batches = numbers(batch_size=4)
    drawn = [number for step in range(5) for number in batches.numbers(step)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert numbers(batch_size=4).numbers(3) == batches.numbers(3)


def test_weighted_items_are_drawn_by_their_weights() -> None:
    batches = SampledBatches(torch.arange(3), 100, seed=0, weights=[1.0, 0.0, 3.0])
    drawn = np.array([number for step in range(40) for number in batches.numbers(step)])
    assert (drawn == 1).sum() == 0
    assert (drawn == 2).mean() == pytest.approx(0.75, abs=0.03)


def test_prefetched_batches_come_in_order_and_a_failure_reaches_the_training() -> None:
    batches = numbers()
    expected = [batches.batch(step).tolist() for step in range(3, 8)]
    with Prefetcher(batches) as prefetcher:
        assert [batch.tolist() for batch in prefetcher.steps(3, 5)] == expected
        assert len(prefetcher.steps(3, 5)) == 5
    missing = SampledBatches(ImageFiles([Path("nowhere.png")], 8), 1, seed=0)
    with Prefetcher(missing) as prefetcher, pytest.raises(UnreadableImageError, match=r"nowhere\.png"):
        list(prefetcher.steps(0, 2))


def test_beside_a_gpu_many_batches_are_read_at_once_and_come_in_order() -> None:
    all_at_work = Barrier(4)

    class Files:
        def batch(self, step: int) -> int:
            all_at_work.wait(timeout=60)
            return step

        def content(self) -> dict[str, Any]:
            return {}

    with Prefetcher(Files(), cores=4) as prefetcher:
        assert list(prefetcher.steps(0, 8)) == list(range(8))


def test_images_are_read_when_asked_for_and_few_are_kept() -> None:
    reads: list[int] = []

    def reader(number: int) -> Any:
        def read() -> Any:
            reads.append(number)
            return np.full((2, 2), number, np.uint8)

        return read

    images = LazyImages([reader(number) for number in range(3)], (2, 2), kept_bytes=4)
    assert reads == []
    assert [int(images[index][0, 0]) for index in (2, 0, 2, 0)] == [2, 0, 2, 0]
    assert reads == [2, 0, 2]


def test_an_empty_training_set_is_an_error() -> None:
    with pytest.raises(UserError, match="training set is empty"):
        SampledBatches(torch.empty(0), 1, seed=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        # The gradient of 0 * sqrt(0) is 0 * inf, while its value is 0
        (lambda loss, step: loss + 0.0 * (loss - loss).sqrt() if step == 5 else loss, "gradient.* at step 5"),
        (lambda loss, step: loss * math.inf if step == 5 else loss, "became .* at step 5"),
    ],
)
def test_a_gradient_that_is_not_finite_stops_with_the_step_named_and_the_checkpoint_kept(
    spoil: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FloatingPointError, match=message):
        fit(Line(spoil), numbers(), steps=8, epoch_steps=4, seed=0, checkpoint_directory=tmp_path)
    state = torch.load(tmp_path / LAST, weights_only=True)
    assert state["step"] == 4
    assert all(bool(tensor.isfinite().all()) for tensor in state["state_dict"].values())


def test_a_logged_value_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    class Spoilt(Line):
        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            loss = super().training_step(batch, index)
            self.log("extra", torch.tensor(math.nan if self.step == 2 else 0.0))
            return loss

    with pytest.raises(FloatingPointError, match="extra became nan at step 2"):
        fit(Spoilt(), numbers(), steps=8, epoch_steps=4, seed=0, checkpoint_directory=tmp_path)


def test_a_training_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="a number of steps or a time limit"):
        fit(Line(), numbers(), steps=None, epoch_steps=4, seed=0, checkpoint_directory=None)


def test_a_spent_time_limit_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(range(0, 1000, 2))
    monkeypatch.setattr("metaldefect.training.callbacks.computing_time", lambda: next(readings))
    for expected in ([2.0, 4.0, 6.0], []):
        clock, module = ComputingTime(5.0), Line()
        fit(module, numbers(), steps=None, epoch_steps=2, seed=0, checkpoint_directory=tmp_path, clock=clock)
        assert len(module.seen) == 2 * len(expected)
        assert (module.step, clock.seconds) == (3, 6.0)
    assert len(clock.legs) == 1


def test_the_average_follows_its_warmed_up_decay() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.3)
    expected = 1.0  # the first update copies
    for update in range(1, 6):
        torch.nn.init.constant_(model.weight, float(update))
        average.update_parameters(model)
        if update > 1:
            decay = min(0.3, (1 + update) / (10 + update))
            expected = decay * expected + (1 - decay) * update
        assert float(average.module.weight) == pytest.approx(expected, rel=1e-6)
    average.copy_to(model)
    assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)


def test_the_schedule_rises_linearly_and_falls_along_a_cosine() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = warmup_cosine(optimizer, steps=12, warmup=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[8] == pytest.approx(0.1 + 1.9 / 2)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1)


def test_image_files_are_known_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    before = ImageFiles([path], 4).digest()
    assert ImageFiles([path], 4).digest() == before
    assert ImageFiles([path], 8).digest() != before
    Image.fromarray(np.ones((4, 4), np.uint8)).save(path)
    assert ImageFiles([path], 4).digest() != before
