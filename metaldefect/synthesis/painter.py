"""The models that draw images: a tokenizer, a MaskGIT and the vocabulary between them.

Models compute on their own device. Input and output images, tokens and labels are on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.hardware import autocast, device_of
from metaldefect.images import U8, Channels, decoded_levels, to_tanh_range, to_u8
from metaldefect.maskgit.checkpoints import CONFIG, load_maskgit
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampler import sample
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.exemplars import Exemplars, Region
from metaldefect.synthesis.grain import Grain, add_grain
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.tokenizer.fields import load_fields, plane_of
from metaldefect.tokenizer.model import VQModel

ANCHORS = 6  # tokens that a drawn image takes over from a training image


@dataclass(frozen=True)
class Painter:
    """Encodes images as tokens of MaskGIT's vocabulary, and draws images of a class.

    Models are in eval mode, as `load_tokenizer` and `load_maskgit` return them. Images below are `uint8
    [N, size, size]`, or `[N, size, size, 3]` where `channels` is 3.

    Decoding leaves out fine detail. What is drawn gets it from `exemplars`, pieces of training images.
    Without those, whole images get it from `grain`, noise with the statistics of what is left out; without
    both they stay smooth.

    `fields` holds the light of training images, by class, for whole drawn images; empty if the tokenizer
    has no field. Everywhere, a field is `float32 [N, 3, field, field]`, see `VQModel.field`.
    """

    tokenizer: VQModel
    maskgit: MaskGIT
    classes: tuple[str, ...]
    vocabulary: Vocabulary
    image_size: int
    grain: Grain | None = None
    exemplars: Exemplars | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def channels(self) -> Channels:
        """1 if the models draw grey images, 3 if they draw in colour."""
        return self.tokenizer.config.image_channels

    def label(self, name: str) -> int:
        """Number of a class; for an unknown name, raises a UserError that lists the classes."""
        if name not in self.classes:
            raise UserError(f"unknown class {name!r}: there are {', '.join(self.classes)}")
        return self.classes.index(name)

    @torch.no_grad()
    def encode(self, images: U8) -> Tensor:
        """Images to MaskGIT tokens `int64 [N, grid, grid]`."""
        on = device_of(self.tokenizer)
        with autocast(on):
            codes = self.tokenizer.encode(to_tanh_range(images).to(on))
        return self.vocabulary.nearest[codes.cpu()]

    @torch.no_grad()
    def field_of(self, images: U8) -> Tensor:
        """The light on images."""
        return self.tokenizer.field(to_tanh_range(images))

    def decode(self, tokens: Tensor, field: Tensor | None = None) -> U8:
        """MaskGIT tokens `int64 [N, grid, grid]` and fields to images without grain.

        Raises:
            ValueError: a token outside the vocabulary, or a tokenizer with a field gets none.
        """
        return to_u8(self.decode_levels(tokens, field))

    def render(self, tokens: Tensor, field: Tensor | None, generators: Sequence[torch.Generator]) -> U8:
        """`decode`, with grain; one generator per image."""
        levels = self.decode_levels(tokens, field)
        if self.grain is not None:
            noise = self.grain.draw(self.vocabulary.codes[tokens], self.image_size, generators)
            levels = add_grain(levels, noise)
        return to_u8(levels)

    @torch.no_grad()
    def decode_levels(self, tokens: Tensor, field: Tensor | None) -> NDArray[np.float32]:
        """MaskGIT tokens `int64 [N, grid, grid]` and fields to unrounded levels, `float32`.

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
            decoded = self.tokenizer.decode(self.vocabulary.codes[tokens].to(on), field)
            return decoded_levels(decoded, self.channels)

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
        """Draw whole images.

        Image k of a class does not depend on the other images of the batch, except for rounding (see
        `sampler`).

        Args:
            labels: class of each image, `int64 [N]`.
            numbers: each image's number within its class.
            config: how to sample.
            seed: of the images.
        """
        generators = self.generators(labels, numbers, seed)
        known, fields = self.start(labels, generators)
        tokens = self.draw_tokens(labels, config, generators, known)
        return self.finish(tokens, labels, fields, generators)

    def start(self, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor | None, Tensor]:
        """Where a drawn image starts: known tokens, if any, and the light."""
        if self.exemplars is None:
            return None, self.drawn_fields(labels, generators)
        return self.anchored(self.exemplars, labels, generators)

    def anchored(
        self, exemplars: Exemplars, labels: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """For each image a few known tokens of one training image of its class, and the plane of its light.

        Images of a class can have several finishes. The first tokens are drawn without seeing each other, so
        without an anchor they mix the finishes, and the plainest one, with the fewest codes, always wins.

        Returns:
            Tokens `int64 [N, grid, grid]`, unknown ones are the mask token, and fields.
        """
        grid = self.maskgit.config.grid
        known = torch.full((len(labels), grid * grid), self.maskgit.config.mask_id)
        fields = []
        for row, label, generator in zip(known, labels.tolist(), generators, strict=True):
            part = exemplars.parts[self.classes[label]]
            chosen = int(torch.randint(len(part["codes"]), (), generator=generator))
            places = torch.randperm(grid * grid, generator=generator)[:ANCHORS]
            row[places] = self.vocabulary.nearest[part["codes"][chosen].flatten()[places].long()]
            fields.append(part["fields"][chosen].float())
        return known.view(-1, grid, grid), plane_of(torch.stack(fields), self.channels)

    def finish(
        self, tokens: Tensor, labels: Tensor, fields: Tensor, generators: Sequence[torch.Generator]
    ) -> U8:
        """Decode drawn tokens `int64 [N, grid, grid]` of these classes and give them detail."""
        if self.exemplars is None:
            return self.render(tokens, fields, generators)
        return self.detailed(self.exemplars, tokens, labels, fields, generators)

    def detailed(
        self,
        exemplars: Exemplars,
        tokens: Tensor,
        labels: Tensor,
        fields: Tensor,
        generators: Sequence[torch.Generator],
        regions: Sequence[Region] | None = None,
    ) -> U8:
        """Decode tokens `int64 [N, grid, grid]` of these classes, with detail from exemplars.

        `regions` says for each image where detail is needed; elsewhere it may lack.
        """
        levels, codes = self.decode_levels(tokens, fields), self.vocabulary.codes[tokens]
        if regions is not None:  # one by one: an image must not depend on what is drawn beside it
            for k, region in enumerate(regions):
                one, name = slice(k, k + 1), self.classes[int(labels[k])]
                levels[one] = exemplars.detailed(
                    name, levels[one], fields[one], codes[one], generators[one], region
                )
            return to_u8(levels)
        for label in labels.unique().tolist():
            own = np.flatnonzero((labels == label).numpy())
            levels[own] = exemplars.detailed(
                self.classes[label], levels[own], fields[own], codes[own], [generators[int(k)] for k in own]
            )
        return to_u8(levels)

    def drawn_fields(self, labels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """For each image the light on a training image of its class, in one of the square's symmetries.

        Tokens and light of a drawn image come from different images. A field also holds large dark defects,
        which must agree with the tokens, so only its plane is taken: the mean and the slope.
        """
        if not self.tokenizer.config.field:
            return torch.empty(len(labels), 3, 0, 0)
        drawn = []
        for label, generator in zip(labels.tolist(), generators, strict=True):
            known = self.fields[self.classes[label]]
            chosen = known[int(torch.randint(len(known), (), generator=generator))].float()
            turns, flip = divmod(int(torch.randint(8, (), generator=generator)), 2)
            chosen = torch.rot90(chosen, turns, (1, 2))
            drawn.append(chosen.flip(2) if flip else chosen)
        return plane_of(torch.stack(drawn), self.channels)


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
        Exemplars.load(tokenizer_directory),
        load_fields(maskgit_directory),
    )
