"""`python -m benchmarks.tokenizer`: the tokenizer's speed, and what its fast modes change.

Times training of the default tokenizer with all losses.
Times encoding and decoding at LlamaGen's full size, with random weights and a codebook of encoder outputs,
because LlamaGen's weights cannot be shipped. Token agreement and SSIM are also measured on the shipped
tokenizer, whose weights are trained. Where nothing computes in bf16, only float32 is measured: emulated, bf16
takes minutes an image. Images are procedural, or those of `--images DIR`. Writes
`benchmarks/results/tokenizer_speed.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish
from metaldefect.hardware import autocast_dtype, set_threads
from metaldefect.images import U8, from_tanh_range, read_grey, to_tanh_range
from metaldefect.metrics.reconstruction import ssim
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import generate_defect_image
from metaldefect.tokenizer.checkpoints import load_base
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.lightning_module import VQLightning, pick
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit
from pipeline.params import load_params

SIZE = 256
BATCH = 4
WARM_UP = 3
SAME_TOKENS = 0.995
Encode = Callable[[Tensor], Tensor]


class StepTimes(pl.Callback):
    """Records the seconds of each training step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Seconds of the steps after the warm-up."""
        return np.diff(self.ends)[WARM_UP:].tolist()


def train_speed(images: U8, steps: int) -> tuple[float, list[float], str]:
    """(images per second, seconds of the steps, perceptual loss) of the default tokenizer, all losses on."""
    section = load_params().finetune_vq
    batch = section.training.batch_size
    changes = {"steps": steps, "warmup_steps": 1, "discriminator_start": 0}
    torch.manual_seed(0)
    model = load_base("shipped", named_config(section.tokenizer.name, section.tokenizer.codebook_size))
    config = VQTrainingConfig.of(section.training).model_copy(update=changes)
    module = VQLightning(model.train(), config)
    times = StepTimes()
    fit(
        module,
        SampledBatches(torch.from_numpy(images), batch, 0),
        steps=steps,
        epoch_steps=steps,
        seed=0,
        checkpoint_directory=None,
        watchers=[times],
    )
    return batch / float(np.median(times.seconds)), times.seconds, module.perceptual_name


def full_size(images: Tensor) -> VQModel:
    """LlamaGen's VQ-16 with fixed random weights and a codebook of its encoder's outputs for `images`."""
    torch.manual_seed(0)
    model = VQModel(named_config("vq16")).eval()
    with torch.inference_mode():
        z = torch.cat([model.features(part) for part in images.split(BATCH)])
    vectors = F.normalize(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), dim=-1)
    model.quantize.embedding.weight.data.copy_(pick(vectors, model.config.codebook_size))
    return model


class Half(nn.Module):
    """A network that computes in bf16, channels last, from float32 to float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.bfloat16().to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs.to(torch.bfloat16, memory_format=torch.channels_last))
        return outputs.float()


def modes(model: VQModel) -> dict[str, tuple[Encode, Encode]]:
    """Name -> (encode, decode); `float32` is the plain formulation. No bf16 where it is emulated."""
    field = torch.zeros(1, 3, model.config.field, model.config.field)

    def decode(of: VQModel) -> Encode:
        return lambda tokens: of.decode(tokens, field.expand(len(tokens), -1, -1, -1))

    def last(images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last)

    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found: dict[str, tuple[Encode, Encode]] = {
        "float32": (model.encode, decode(model)),
        "float32_channels_last": (lambda x: channels_last.encode(last(x)), decode(channels_last)),
    }
    if autocast_dtype() != torch.bfloat16:
        return found
    half = copy.deepcopy(model)
    # Codebook look-ups stay in float32 in every mode, so only the networks differ
    for name in ("encoder", "quant_conv", "post_quant_conv", "decoder"):
        setattr(half, name, Half(getattr(half, name)))

    def autocast(function: Encode) -> Encode:
        def wrapped(inputs: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return function(inputs)

        return wrapped

    return found | {
        "bfloat16_autocast": (autocast(model.encode), autocast(decode(model))),
        "bfloat16_channels_last": (half.encode, decode(half)),
    }


def rate(function: Encode, inputs: Tensor, repeats: int) -> float:
    """Items per second for one batch: the median over `repeats`, after one warm-up call."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function(inputs)
        seconds.append(time.perf_counter() - start)
    return len(inputs) / float(np.median(seconds[1:]))


def in_batches(function: Encode, inputs: Tensor) -> Tensor:
    """Apply `function` to all inputs, one batch at a time."""
    return torch.cat([function(part) for part in inputs.split(BATCH)])


def compare(model: VQModel, images: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Speed, agreement with plain float32 tokens, and SSIM of every mode."""
    found: dict[str, dict[str, float]] = {}
    originals = from_tanh_range(images)
    plain: Tensor | None = None
    with torch.inference_mode():
        for name, (encode, decode) in tqdm(modes(model).items(), desc="modes"):
            tokens = in_batches(encode, images)
            plain = tokens if plain is None else plain
            decoded = from_tanh_range(in_batches(decode, tokens))
            found[name] = {
                "encode_images_per_s": rate(encode, images[:BATCH], repeats),
                "decode_images_per_s": rate(decode, tokens[:BATCH], repeats),
                "token_agreement": float((tokens == plain).float().mean()),
                "ssim": float(np.mean([ssim(a, b) for a, b in zip(decoded, originals, strict=True)])),
            }
    return found


def load(folder: Path | None, count: int) -> U8:
    """`count` grey images, `uint8 [count, 256, 256]`: procedural, or evenly spaced files of a folder."""
    if folder is None:
        labels = list(DEFECT_CLASSES)
        return np.stack(
            [
                generate_defect_image(labels[i % len(labels)], np.random.default_rng(i), SIZE)[0]
                for i in range(count)
            ]
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".bmp"))
    if len(files) < count:
        raise SystemExit(f"{folder} holds {len(files)} images, {count} are needed")
    return np.stack([read_grey(files[i * len(files) // count], SIZE) for i in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizer", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of images (default: procedural ones)")
    parser.add_argument("--steps", type=int, default=16, help="training steps timed")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each mode")
    add_results_argument(parser, "tokenizer_speed")
    args = parser.parse_args()
    set_threads()
    images = load(args.images, 80)
    tensor = to_tanh_range(images)
    full = compare(full_size(tensor[BATCH * 2 :]), tensor[: BATCH * 2], args.repeats)
    shipped = compare(load_base("shipped", named_config("vq16_small")).eval(), tensor, args.repeats)
    # Last: training makes the process keep freed memory, which would speed up the modes above
    trained, step_seconds, perceptual = train_speed(images, args.steps + WARM_UP + 1)
    plain = full["float32"]
    same = [name for name, mode in full.items() if mode["token_agreement"] >= SAME_TOKENS]
    fastest = {
        key: max(full, key=lambda name: full[name][f"{key}_images_per_s"]) for key in ("encode", "decode")
    }
    fastest_same = max(same, key=lambda name: full[name]["encode_images_per_s"])

    def speedup(name: str, key: str) -> float:
        return full[name][f"{key}_images_per_s"] / plain[f"{key}_images_per_s"]

    figures = {
        "train_images_per_s": trained,
        "encode_speedup": speedup(fastest["encode"], "encode"),
        "decode_speedup": speedup(fastest["decode"], "decode"),
        "token_agreement": full[fastest["encode"]]["token_agreement"],
        "encode_speedup_same_tokens": speedup(fastest_same, "encode"),
        "token_agreement_same_tokens": full[fastest_same]["token_agreement"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if half := shipped.get("bfloat16_autocast"):
        figures["shipped_token_agreement_bf16"] = half["token_agreement"]
        figures["shipped_ssim_change_bf16"] = half["ssim"] - shipped["float32"]["ssim"]
    details = {
        "fastest": fastest,
        "full_size": full,
        "shipped": shipped,
        "train_step_s": step_seconds,
        "perceptual": perceptual,
        "threads": torch.get_num_threads(),
    }
    publish(args.results, "tokenizer", figures, details)


if __name__ == "__main__":
    main()
