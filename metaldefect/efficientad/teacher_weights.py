"""Read and write teachers: this project's files, and the layouts of the public implementations."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from metaldefect.artifacts import atomic_file, check_sha256, read_json, sha256_file, write_json
from metaldefect.efficientad.config import Size
from metaldefect.efficientad.torch_model import FEATURES, LAYERS, PatchDescriptionNetwork
from metaldefect.errors import UserError

# Indices of the convolutions in nelson1425/EfficientAD's nn.Sequential.
NELSON_INDICES = {"S": (0, 3, 6, 8), "M": (0, 3, 6, 8, 10, 12)}
STATISTICS = ("target_mean", "target_std")
# The card's key for how a teacher's average pools treat the padded border
POOLING = "count_include_pad"
SHIPPED = Path(__file__).resolve().parents[1] / "weights"


def shipped_teacher(size: Size) -> Path:
    """Path of the teacher weights in this package.

    Raises:
        UserError: the package has no teacher of this size.
    """
    path = SHIPPED / f"teacher_pdn_{size.lower()}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist: no teacher of size {size} is shipped, distil one")
    return path


def teacher_keys(size: Size, layout: str) -> dict[str, str]:
    """Map this project's parameter names to those of another implementation.

    Args:
        size: `S` or `M`.
        layout: `nelson1425` (`0.weight`, `3.weight`, ...) or `anomalib` (`conv1.weight`, ...).
    """
    count = len(LAYERS[size])
    if layout == "nelson1425":
        names = [str(index) for index in NELSON_INDICES[size]]
    elif layout == "anomalib":
        names = [f"conv{index + 1}" for index in range(count)]
    else:
        raise ValueError(f"layout {layout!r}: expected nelson1425 or anomalib")
    return {
        f"convolutions.{index}.{kind}": f"{names[index]}.{kind}"
        for index in range(count)
        for kind in ("weight", "bias")
    }


def own_keys(size: Size) -> set[str]:
    """Parameter names of this project's teachers."""
    return set(teacher_keys(size, "anomalib"))


def import_teacher(
    state: Mapping[str, Tensor], padding: bool = True, count_include_pad: bool = True
) -> PatchDescriptionNetwork:
    """Make a teacher from a state dict in this project's, nelson1425's or anomalib's layout.

    Args:
        state: the parameters.
        padding: whether to pad; the weights are the same.
        count_include_pad: how the teacher pooled at the padded border during its training; both public
            implementations count the zeros.

    Raises:
        UserError: the keys or shapes do not match any PDN.
    """
    for size in ("S", "M"):
        own = {name: name for name in own_keys(size)}
        for keys in (own, teacher_keys(size, "nelson1425"), teacher_keys(size, "anomalib")):
            if set(keys.values()) != set(state):
                continue
            teacher = PatchDescriptionNetwork(size, FEATURES, padding, count_include_pad)
            expected = {name: tensor.shape for name, tensor in teacher.state_dict().items()}
            wrong = {
                theirs: tuple(state[theirs].shape)
                for ours, theirs in keys.items()
                if state[theirs].shape != expected[ours]
            }
            if wrong:
                raise UserError(f"not a PDN-{size} teacher: unexpected shapes {wrong}")
            teacher.load_state_dict({ours: state[theirs].float() for ours, theirs in keys.items()})
            return teacher.eval().requires_grad_(False)
    raise UserError(f"not a teacher: keys {sorted(state)[:6]} are those of no known layout")


def load_teacher(path: Path | str, padding: bool = True) -> PatchDescriptionNetwork:
    """Load a frozen float32 teacher from a `.safetensors` or `.pth` file.

    A teacher of this project has a card next to it, which says how the teacher pools at the padded border.
    Teachers of the public implementations have none and pool as those implementations do.

    Raises:
        UserError: the file is missing or unreadable, a teacher of this project lacks its card, or the file
            holds no teacher or not the one that its card describes.
    """
    state = {name: tensor for name, tensor in read_state(path).items() if name not in STATISTICS}
    own = any(set(state) == own_keys(size) for size in ("S", "M"))
    count_include_pad = bool(read_card(path)[POOLING]) if own else True
    try:
        return import_teacher(state, padding, count_include_pad)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_target_statistics(path: Path | str) -> tuple[Tensor, Tensor]:
    """Read mean and deviation, `float32 [1, C, 1, 1]`, of the targets that a teacher was distilled with.

    Raises:
        UserError: the file does not contain them.
    """
    state = read_state(path)
    if missing := [name for name in STATISTICS if name not in state]:
        raise UserError(f"{path} holds no {' and '.join(missing)}: it was not made by this distillation")
    return state[STATISTICS[0]], state[STATISTICS[1]]


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a `.pth` file without running code from it.

    Raises:
        UserError: the file is missing or unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def save_teacher(
    path: Path | str,
    teacher: PatchDescriptionNetwork,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    targets: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Write the weights as safetensors, and the card as JSON next to them.

    Adds to the card the weights' SHA-256 and how the teacher pools (`count_include_pad`).

    Args:
        path: the `.safetensors` file.
        teacher: the network.
        card: what the weights are and how they were made.
        dtype: of the weights on disk.
        targets: mean and deviation per channel that normalised the distillation's targets.
    """
    path = Path(path)
    state = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in teacher.state_dict().items()
    }
    if targets is not None:
        state |= {
            name: tensor.detach().float().cpu() for name, tensor in zip(STATISTICS, targets, strict=True)
        }
    with atomic_file(path) as temporary:
        save_file(state, temporary)
        temporary.chmod(0o644)  # safetensors makes the file private
    own = {"sha256": sha256_file(path), POOLING: teacher.count_include_pad}
    write_json(path.with_suffix(".json"), {**card, **own})


def read_card(path: Path | str) -> dict[str, Any]:
    """Read the card next to a teacher's weights.

    Raises:
        UserError: there is no card, it lacks a key, or it describes other weights.
    """
    path = Path(path)
    card = dict(read_json(path.with_suffix(".json")))
    if missing := [key for key in ("sha256", POOLING) if key not in card]:
        raise UserError(f"{path.with_suffix('.json')} says nothing about {' and '.join(missing)}")
    check_sha256(path, card["sha256"])
    return card
