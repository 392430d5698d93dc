"""A classifier that judges drawn images and shares nothing with their selection.

Candidates are selected with EfficientNet-Lite0 features, and class agreement, CAS and KID use the same
features, so a drawing may please that network instead of showing its class. The judge is a small
convolutional network that learns from real training images alone, from random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from metaldefect.hardware import device, device_of
from metaldefect.images import U8
from metaldefect.ingest.groups import SYMMETRIES
from metaldefect.ingest.splits import sampling_weights
from metaldefect.metrics.generation import class_agreement
from metaldefect.metrics.judge_config import JudgeSettings
from metaldefect.metrics.usefulness import class_weights
from metaldefect.training.data import SampledBatches
from metaldefect.training.module import Trainee
from metaldefect.training.schedule import warmup_cosine
from metaldefect.training.trainer import fit

FOLD = 4  # pixels per side that become channels: no layer works at full resolution
# (channels, stride) of the convolutions
LAYERS = ((32, 1), (64, 2), (128, 2), (128, 2))
FIELD = 8  # cells along a side of the illumination that is subtracted
WEIGHT_DECAY = 0.05
AT_ONCE = 64  # images per forward pass when predicting
Labels = NDArray[np.str_]


class LabelledImages(NamedTuple):
    """Images with their classes, and what they have in common with others."""

    images: U8  # [N, S, S], or in colour [N, S, S, 3]
    labels: Labels  # [N]
    sources: NDArray[Any]  # dataset of each image, [N]
    groups: NDArray[Any]  # scene of each image, which intervals resample as a whole, [N]


class JudgeNetwork(nn.Module):
    """Convolutions with batch normalisation, then mean and maximum of each map, then a linear layer.

    The maximum sees defects that cover few pixels.
    """

    def __init__(self, classes: int, colours: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(FOLD)]
        channels = 2 * colours * FOLD**2
        for width, stride in LAYERS:
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.trunk = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`uint8 [N, S, S]` or `[N, 3, S, S]`, S a multiple of 4, to logits `float [N, classes]`."""
        maps = self.trunk(standardise(images).contiguous(memory_format=torch.channels_last))
        return self.head(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))


def standardise(images: Tensor) -> Tensor:
    """Two views of each image, both with mean 0 and deviation 1 in each channel.

    The first is the image, the second the image without its illumination, a smooth field of 8 x 8 means.
    Brightness and contrast are gone: datasets differ in both, and a judge that sees them learns the camera.

    Args:
        images: `uint8 [N, S, S]` or `[N, 3, S, S]`.

    Returns:
        `float32 [N, 2, S, S]` or `[N, 6, S, S]`.
    """
    pixels = (images.unsqueeze(1) if images.dim() == 3 else images).float()
    field = functional.adaptive_avg_pool2d(pixels, FIELD)
    smooth = functional.interpolate(field, images.shape[-2:], mode="bilinear", align_corners=False)
    views = torch.cat([pixels, pixels - smooth], dim=1)
    deviation, mean = torch.std_mean(views, dim=(2, 3), keepdim=True)
    return (views - mean) / (deviation + 1.0)  # one grey level more, so that noise stays small in flat images


def symmetry(images: Tensor, number: int) -> Tensor:
    """One of the eight symmetries of square images `[..., S, S]`."""
    turns, mirrored = divmod(number, 2)
    return torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))


def vary(item: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random crop, seven eighths of the side, of a training image in a random symmetry."""
    image, label = item
    side = image.shape[-1] * 7 // 8
    top, left = torch.randint(image.shape[-1] - side + 1, (2,), generator=generator).tolist()
    turned = symmetry(image, int(torch.randint(SYMMETRIES, (), generator=generator)))
    return turned[..., top : top + side, left : left + side], label


def planes(images: U8) -> Tensor:
    """Images as the network takes them: `uint8 [N, S, S]`, or `[N, 3, S, S]` of colour `[N, S, S, 3]`."""
    pixels = torch.from_numpy(images)
    return pixels if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def mean_logits(network: JudgeNetwork, images: Tensor) -> Tensor:
    """Logits of `planes`, averaged over the eight symmetries, `float32 [N, classes]`."""
    was_training, on = network.training, device_of(network)
    network.eval()
    found = []
    for part in images.split(AT_ONCE):
        pixels = part.to(on)
        views = [network(symmetry(pixels, number)).float() for number in range(SYMMETRIES)]
        found.append(torch.stack(views).mean(dim=0).cpu())
    network.train(was_training)
    return torch.cat(found)


class Judge:
    """A trained judge.

    Args:
        network: the trained network.
        classes: names of its outputs.
    """

    def __init__(self, network: JudgeNetwork, classes: Labels) -> None:
        self.network, self.classes = network, classes

    def predict(self, images: U8) -> Labels:
        """Classes of images `uint8 [N, S, S]` or `[N, S, S, 3]`, `str [N]`."""
        parts = (planes(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE))
        logits = torch.cat([mean_logits(self.network, part) for part in parts])
        return self.classes[logits.argmax(dim=1).numpy()]


class JudgeModule(Trainee):
    """Trains a judge with cross-entropy."""

    model: JudgeNetwork

    def __init__(self, model: JudgeNetwork, settings: JudgeSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def content(self) -> Mapping[str, Any]:
        return {"settings": self.settings}

    def configure_optimizers(self) -> Any:
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        schedule = warmup_cosine(optimizer, settings.steps, settings.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self.model(images).float(), labels)
        self.log("loss", loss.detach())
        return loss


class EarlyStopping(Callback):
    """Keeps the weights with the lowest cross-entropy on validation images; stops when it no longer falls.

    Every class counts the same.
    """

    def __init__(self, images: Tensor, labels: Tensor, patience: int) -> None:
        self.images, self.labels, self.patience = images, labels, patience
        self.weights = class_weights(labels.numpy())
        self.best: dict[str, Tensor] = {}
        self.lowest, self.waited = float("inf"), 0

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, JudgeModule)
        losses = functional.cross_entropy(
            mean_logits(module.model, self.images), self.labels, reduction="none"
        )
        loss = float(np.average(losses.numpy(), weights=self.weights))
        self.waited += 1
        if loss < self.lowest:
            self.lowest, self.waited = loss, 0
            self.best = deepcopy(module.model.state_dict())
        trainer.should_stop = self.waited >= self.patience


def train_judge(
    train: LabelledImages, validation: LabelledImages, settings: JudgeSettings, seed: int
) -> Judge:
    """Train a judge from random weights.

    Args:
        train: what it learns from; classes, and sources in a class, are seen equally often.
        validation: decides when training stops and which weights are kept; holds no other classes.
        settings: how to train.
        seed: of weights, batches and views.
    """
    classes = np.unique(train.labels)

    def numbers(labels: Labels) -> Tensor:
        return torch.from_numpy(np.searchsorted(classes, labels))

    torch.manual_seed(seed)
    seen, watched = planes(train.images), planes(validation.images)
    colours = 1 if seen.dim() == 3 else seen.shape[1]
    module = JudgeModule(JudgeNetwork(len(classes), colours).to(device()), settings)
    stopping = EarlyStopping(watched, numbers(validation.labels), settings.patience)
    batches = SampledBatches(
        TensorDataset(seen, numbers(train.labels)),
        settings.batch_size,
        seed,
        weights=sampling_weights(train.labels.tolist(), train.sources.tolist()).tolist(),
        view=vary,
    )
    fit(
        module,
        batches,
        steps=settings.steps,
        epoch_steps=settings.check_steps,
        seed=seed,
        checkpoint_directory=None,
        watchers=[stopping],
    )
    module.model.load_state_dict(stopping.best)
    return Judge(module.model.to(device()), classes)


def judge_metrics(judge: Judge, test: LabelledImages, drawn: LabelledImages) -> dict[str, Any]:
    """What an independent judge says about drawn images.

    Returns:
        `judge_accuracy_on_real` (`mean`, `low`, `high` and `per_class`) on unseen real images;
        `class_agreement_independent`, the same for drawn images and the classes they were drawn for;
        `class_agreement_independent_lowest`, that of the worst class.
    """
    agreement = class_agreement(judge, drawn.images, drawn.labels, drawn.groups)
    return {
        "judge_accuracy_on_real": class_agreement(judge, test.images, test.labels, test.groups),
        "class_agreement_independent": agreement,
        "class_agreement_independent_lowest": min(agreement["per_class"].values()),
    }
