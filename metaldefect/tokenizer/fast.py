"""Encoding and decoding at full speed on a CPU: the networks through OpenVINO, the codebook in float32.

The compiled networks fuse normalisation and activation and reuse their memory. PyTorch comes level with them
where the process keeps the memory that it frees (`metaldefect.hardware.keep_freed_memory`); the figures of
all modes are in the output of `python -m benchmarks.tokenizer`. Look-ups stay in PyTorch in float32: which
entry is nearest is decided by digits that bfloat16 does not have.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaldefect.tokenizer.model import VQModel

Precision = Literal["float32", "bfloat16"]
HINTS = {"float32": "f32", "bfloat16": "bf16"}


class _Features(nn.Module):
    def __init__(self, model: VQModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.features(images)


class _Images(nn.Module):
    def __init__(self, model: VQModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.to_images(z)


class FastTokenizer:
    """A tokenizer compiled for one batch shape on the CPU; the same tokens as `VQModel` up to rounding.

    Args:
        model: in eval mode; not changed.
        image_size: side of the square images, a multiple of the tokenizer's downsampling.
        batch_size: images of a call; a shorter batch is filled up.
        precision: of the convolutions. float32 keeps the tokens; bfloat16 is faster and moves the few
            that lie between two entries.
    """

    def __init__(
        self, model: VQModel, image_size: int, batch_size: int = 8, precision: Precision = "float32"
    ) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        grid = model.config.grid(image_size)
        self.shapes = {
            "encode": (batch_size, 3, image_size, image_size),
            "decode": (batch_size, model.config.codebook_dim, grid, grid),
        }
        self.precision = precision
        self.compiled: dict[str, Any] = {}

    def network(self, which: str) -> Any:
        """The compiled encoder or decoder, made at its first use."""
        if which not in self.compiled:
            import openvino

            half = _Features(self.model) if which == "encode" else _Images(self.model)
            example = torch.zeros(self.shapes[which])
            with torch.no_grad():
                network = openvino.convert_model(half.eval(), example_input=example, input=[example.shape])
            hints = {"INFERENCE_PRECISION_HINT": HINTS[self.precision], "PERFORMANCE_HINT": "LATENCY"}
            self.compiled[which] = openvino.Core().compile_model(network, "CPU", hints)
        return self.compiled[which]

    def run(self, which: str, inputs: Tensor) -> Tensor:
        """One pass of a batch of at most `batch_size`; another shape is an error."""
        wanted = self.shapes[which]
        if inputs.shape[1:] != wanted[1:] or not 0 < len(inputs) <= self.batch_size:
            raise ValueError(f"{which} is compiled for {list(wanted)}, got {list(inputs.shape)}")
        full = F.pad(inputs.float(), (0, 0, 0, 0, 0, 0, 0, self.batch_size - len(inputs)))
        return torch.from_numpy(self.network(which)(full.contiguous().numpy())[0])[: len(inputs)].clone()

    def encode(self, images: Tensor) -> Tensor:
        """`float [N, 3, H, W]` in [-1, 1], N at most `batch_size`, to tokens `int64 [N, H/f, W/f]`."""
        z = self.run("encode", images).permute(0, 2, 3, 1)
        nearest = self.model.quantize.nearest(F.normalize(z.reshape(-1, z.shape[-1]), dim=-1))
        return nearest.view(z.shape[:3])

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens `int64 [N, h, w]` to `float [N, 3, H, W]`, about [-1, 1]."""
        with torch.no_grad():
            return self.run("decode", self.model.quantize.lookup(tokens))
