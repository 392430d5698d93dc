"""`python -m benchmarks.learning`: what makes the detector learn faster, at equal computing time.

On real magnetic tiles, each variant trains EfficientAD-S for the same computing time (`--seconds`) and is
scored on defects painted onto validation tiles, by which settings are chosen, and on the test tiles. The
first variant is what `metaldefect train` does, the second the paper's settings; each other one changes one
thing of the first. All variants of a seed share tiles, teacher, painted defects and penalty photographs.
Finished trainings are skipped and killed ones resume. Writes `benchmarks/results/learning.json`.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import add_results_argument, publish
from benchmarks.tiles import provider_of_seed
from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.settings import TrainSettings
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.evaluation import score_test_images, summarise
from metaldefect.efficientad.held_out import HeldOut, hold_out
from metaldefect.efficientad.lightning_model import EfficientADModule, training_losses
from metaldefect.efficientad.loss import distance_loss, hard_feature_loss, penalty_loss
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.torch_model import FEATURES, EfficientAD, PatchDescriptionNetwork
from metaldefect.efficientad.training_data import Batch, TeacherFeatures, TrainingBatches, TrainingImages
from metaldefect.efficientad.training_sets import training_images
from metaldefect.efficientad.validation_curve import measure
from metaldefect.errors import exit_on_user_error
from metaldefect.hardware import device, keep_freed_memory, set_threads
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.trainer import fit

EPOCH = 50  # steps between two saved states
SHORT = {"learning_rate": 4e-4, "hard_quantile": 0.97}  # what `metaldefect train` does
PAPER = {"learning_rate": 1e-4, "hard_quantile": 0.999}
FIRST_QUANTILE, LAST_QUANTILE = 0.9, 0.999
AUTOENCODER_ALONE = 0.2  # share of the time


def student_losses(model: EfficientAD, batch: Batch, hard_quantile: float) -> Tensor:
    """The hard loss and the penalty, without the autoencoder and its imitation."""
    described = [batch.images] if batch.penalty is None else [batch.images, batch.penalty]
    normal, *others = model.student.trunk(torch.cat(described)).split([len(images) for images in described])
    weight, bias = (tensor.split(FEATURES)[0] for tensor in model.student.head_parameters())
    loss = hard_feature_loss(batch.features, model.student.convolve(normal, weight, bias), hard_quantile)
    for natural in others:
        loss = loss + penalty_loss(model.student.convolve(natural, weight, bias).float())
    return loss


class Timed(EfficientADModule):
    """A training whose course follows the share of the time that is used up."""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        assert self.clock is not None
        return min(1.0, self.clock.share)

    def logged(self, loss: Tensor) -> Tensor:
        """The loss, which the trainer records."""
        self.log_dict({"loss": loss.detach()})
        return loss


def rising_quantile(share: float) -> float:
    """From 0.9 to 0.999 with the share of the time; what the hard loss keeps shrinks in equal ratios."""
    first, last = math.log(1 - FIRST_QUANTILE), math.log(1 - LAST_QUANTILE)
    return 1 - math.exp(first + (last - first) * share)


class RisingQuantile(Timed):
    """The hard loss leaves out ever more."""

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        return self.logged(training_losses(self.model, batch, rising_quantile(self.share))[0])


class FallingRate(Timed):
    """The learning rate falls along half a cosine, where the paper has one step near the end."""

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(
            configured["optimizer"], lambda _step: 0.5 * (1 + math.cos(math.pi * self.share))
        )
        return configured | {"lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class RareAutoencoder(Timed):
    """Every second step trains the student against the teacher alone."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if self.step % 2:
            return self.logged(student_losses(self.model, batch, self.config.hard_quantile))
        return super().training_step(batch, index)


class AutoencoderFirst(Timed):
    """A fifth of the time trains the autoencoder alone."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if self.share >= AUTOENCODER_ALONE:
            return super().training_step(batch, index)
        with torch.no_grad():
            target = self.model.normalised_teacher(batch.augmented)
        return self.logged(distance_loss(target, self.model.autoencoder(batch.augmented).float()))


class TeacherStart(Timed):
    """The student's layers before the last start with the teacher's weights."""

    def __init__(self, model: EfficientAD, *others: Any) -> None:
        super().__init__(model, *others)
        for own, taught in list(zip(model.student.convolutions, model.teacher.convolutions, strict=True))[
            :-1
        ]:
            own.load_state_dict(taught.state_dict())


@dataclass(frozen=True)
class WayToLearn:
    """One way to train: what it changes in the settings, and its module."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    module: Callable[..., EfficientADModule] = EfficientADModule


VARIANTS = {
    "plain": WayToLearn(),
    "paper": WayToLearn(PAPER),
    "batch_4": WayToLearn({"batch_size": 4}),
    "batch_4_rate_doubled": WayToLearn({"batch_size": 4, "learning_rate": 2 * SHORT["learning_rate"]}),
    "rising_quantile": WayToLearn(module=RisingQuantile),
    "falling_rate": WayToLearn(module=FallingRate),
    "autoencoder_rare": WayToLearn(module=RareAutoencoder),
    "autoencoder_first": WayToLearn(module=AutoencoderFirst),
    "teacher_start": WayToLearn(module=TeacherStart),
}


def train_variant(
    variant: WayToLearn,
    teacher: PatchDescriptionNetwork,
    images: TrainingImages,
    seconds: float,
    seed: int,
    work: Path,
) -> tuple[EfficientAD, int]:
    """Train for the computing time; the model in evaluation mode, not calibrated, and its steps."""
    config = TrainingConfig(**{"steps": 1, **SHORT, **variant.changes, "seed": seed})
    keep_freed_memory()
    torch.manual_seed(seed)
    model = EfficientAD(teacher.size, teacher.padding, teacher.count_include_pad)
    model.teacher.load_state_dict(teacher.state_dict())
    model = model.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    clock = ComputingTime(seconds)
    with cpu_kernels(model, enabled=device().type == "cpu"):
        features = TeacherFeatures(model.teacher, images.normal, work / "teacher_features.npy")
        module = variant.module(model, features, config, clock)
        fit(
            module,
            TrainingBatches(images, features, config.batch_size, seed),
            steps=None,
            epoch_steps=EPOCH,
            seed=seed,
            checkpoint_directory=work,
            clock=clock,
        )
    return module.model.to(device()).eval(), module.step


def run_variant(
    name: str,
    provider: RealDatasetProvider,
    held_out: HeldOut,
    images: TrainingImages,
    arguments: argparse.Namespace,
    seed: int,
) -> dict[str, Any]:
    """Train and score a variant, or read what an earlier run found.

    Args:
        name: in `VARIANTS`.
        provider: the tiles of the seed.
        held_out: the tiles with painted defects.
        images: what to train on.
        arguments: the command's.
        seed: of the training.
    """
    path = arguments.work / f"{name}_seed{seed}.json"
    if path.is_file():
        known: dict[str, Any] = read_json(path)
        return known
    state = arguments.work / f"{name}_seed{seed}"
    teacher = load_teacher(shipped_teacher("S"), padding=True)
    model, steps = train_variant(VARIANTS[name], teacher, images, arguments.seconds, seed, state)
    assert held_out.curve is not None
    painted = measure(model, held_out.curve)
    model.map_weights.copy_(torch.tensor([painted["student"], 1 - painted["student"]]))
    scored = score_test_images(model, list(provider.test()), arguments.image_size, f"{name}, seed {seed}")
    metrics = summarise(scored, 0.0, seed)
    found = {
        "steps": steps,
        "painted": painted["image_auroc"],
        "student_share": painted["student"],
        "tiles": metrics["image_auroc"],
        "tiles_interval_95": metrics["interval_95"]["image_auroc"],
    }
    write_json(path, found)
    shutil.rmtree(state)
    print(
        f"{name}, seed {seed}: {steps} steps, painted {found['painted']:.3f}, tiles {found['tiles']:.3f}",
        flush=True,
    )
    return found


def figures_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Means over the seeds: `<variant>_steps`, `<variant>_painted` and `<variant>_tiles`."""
    return {
        f"{name}_{key}": float(np.mean([found[key] for found in of_seeds]))
        for name, of_seeds in runs.items()
        for key in ("steps", "painted", "tiles")
    }


def main() -> None:
    """Train every variant with every seed, then publish."""
    arguments = parse_arguments()
    set_threads()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.variants}
    with exit_on_user_error("benchmarks.learning"):
        for seed in arguments.seeds:
            settings = TrainSettings(
                output=arguments.work,
                source="real",
                adapter="magnetic_tile",
                root=arguments.raw,
                seed=seed,
                steps=1,
            )
            provider = provider_of_seed(settings, arguments.work)
            held_out = hold_out(provider, arguments.image_size, seed)
            images = training_images(
                provider, arguments.image_size, True, arguments.natural, arguments.penalty_images
            )
            for name in arguments.variants:
                runs[name].append(run_variant(name, provider, held_out, images, arguments, seed))
    details = {
        "runs": runs,
        "seconds": arguments.seconds,
        "seeds": arguments.seeds,
        "image_size": arguments.image_size,
    }
    publish(arguments.results, "learning", figures_of(runs), details)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--raw", type=Path, default=Path("data/raw/Magnetic-tile-defect"))
    parser.add_argument("--natural", type=Path, help="photographs for the penalty (default: packaged ones)")
    parser.add_argument("--penalty-images", type=int, default=500)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument(
        "--seconds", type=float, default=120, help="computing time of a training (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("data/learning"))
    add_results_argument(parser, "learning")
    return parser.parse_args()


if __name__ == "__main__":
    main()
