"""The models that draw images: a tokenizer, a MaskGIT and the vocabulary between them.

Models compute on their own device. Input and output images, tokens and labels are on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.hardware import autocast, device_of
from metaldefect.images import U8, grey_levels, to_tanh_range, to_u8
from metaldefect.maskgit.checkpoints import CONFIG, load_maskgit
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampler import sample
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import Grain
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.tokenizer.model import VQModel


@dataclass(frozen=True)
class Painter:
    """Encodes images as tokens of MaskGIT's vocabulary, and draws images of a class.

    Models are in eval mode, as `load_tokenizer` and `load_maskgit` return them.

    `grain` is the texture that decoding leaves out, added to whole generated images; None leaves them
    smooth.
    """

    tokenizer: VQModel
    maskgit: MaskGIT
    classes: tuple[str, ...]
    vocabulary: Vocabulary
    image_size: int
    grain: Grain | None = None

    def label(self, name: str) -> int:
        """Number of a class; for an unknown name, raises a UserError that lists the classes."""
        if name not in self.classes:
            raise UserError(f"unknown class {name!r}: there are {', '.join(self.classes)}")
        return self.classes.index(name)

    @torch.no_grad()
    def encode(self, images: U8) -> Tensor:
        """Grey `uint8 [N, size, size]` to MaskGIT tokens `int64 [N, grid, grid]`."""
        on = device_of(self.tokenizer)
        with autocast(on):
            codes = self.tokenizer.encode(to_tanh_range(images).to(on))
        return self.vocabulary.nearest[codes.cpu()]

    def decode(self, tokens: Tensor) -> U8:
        """MaskGIT tokens `int64 [N, grid, grid]` to grey `uint8 [N, size, size]`, without grain.

        Raises:
            ValueError: a token outside the vocabulary.
        """
        return to_u8(self.decode_levels(tokens))

    def render(self, tokens: Tensor, generators: Sequence[torch.Generator]) -> U8:
        """`decode`, with grain; one generator per image."""
        levels = self.decode_levels(tokens)
        if self.grain is not None:
            levels = levels + self.grain.draw(self.vocabulary.codes[tokens], self.image_size, generators)
        return to_u8(levels)

    @torch.no_grad()
    def decode_levels(self, tokens: Tensor) -> NDArray[np.float32]:
        """MaskGIT tokens `int64 [N, grid, grid]` to grey levels `float32 [N, size, size]`.

        Raises:
            ValueError: a token outside the vocabulary.
        """
        size = len(self.vocabulary.codes)
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
            raise ValueError(
                f"tokens lie in [{int(tokens.min())}, {int(tokens.max())}], the vocabulary has {size}: "
                f"expected [0, {size - 1}]"
            )
        on = device_of(self.tokenizer)
        with autocast(on):
            return grey_levels(self.tokenizer.decode(self.vocabulary.codes[tokens].to(on)))

    def draw_tokens(
        self,
        labels: Tensor,
        config: SamplingConfig,
        generators: Sequence[torch.Generator],
        known: Tensor | None = None,
        history: list[Tensor] | None = None,
    ) -> Tensor:
        """Token grids of the given classes, `int64 [N, grid, grid]`; see `sampler.sample`."""
        on = device_of(self.maskgit)
        known = None if known is None else known.to(on)
        with autocast(on):
            tokens = sample(self.maskgit, labels.to(on), config, generators, known, history).cpu()
        if history is not None:
            history[:] = [grids.cpu() for grids in history]
        return tokens

    def generators(self, labels: Tensor, numbers: Sequence[int], seed: int) -> list[torch.Generator]:
        """One generator per image; each depends only on (seed, class, number within the class)."""
        names = [self.classes[label] for label in labels.tolist()]
        return [image_generator(seed, name, number) for name, number in zip(names, numbers, strict=True)]

    def sample(self, labels: Tensor, numbers: Sequence[int], config: SamplingConfig, seed: int) -> U8:
        """Draw whole images, `uint8 [N, size, size]`.

        Image k of a class does not depend on the other images of the batch, except for rounding (see
        `sampler`).

        Args:
            labels: class of each image, `int64 [N]`.
            numbers: each image's number within its class.
            config: how to sample.
            seed: of the images.
        """
        generators = self.generators(labels, numbers, seed)
        return self.render(self.draw_tokens(labels, config, generators), generators)


def load_painter(tokenizer_directory: Path, maskgit_directory: Path) -> Painter:
    """Load the models that `finetune_vq` and `train_maskgit` wrote."""
    config = read_json(maskgit_directory / CONFIG)
    return Painter(
        load_tokenizer(tokenizer_directory),
        load_maskgit(maskgit_directory),
        tuple(config["classes"]),
        Vocabulary.load(maskgit_directory),
        int(config["image_size"]),
        Grain.load(tokenizer_directory),
    )
