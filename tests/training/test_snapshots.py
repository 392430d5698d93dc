"""Snapshots of the averaged weights: which steps, what they hold, and what a killed training leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.training import train
from metaldefect.maskgit.training_config import MaskGITTrainingConfig, Schedule
from metaldefect.training.snapshots import Snapshots
from tests.tiny_models import TINY


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randint(0, 11, (20, 4, 4), generator=generator), torch.randint(0, 3, (20,), generator=generator)
    )


def train_two_stages(folder: Path, snapshots: Snapshots, checkpoints: Path | None = None) -> MaskGIT:
    torch.manual_seed(1)
    model = MaskGIT(TINY)
    train(
        model,
        MaskGITTrainingConfig(steps=12, warmup_steps=2),
        *data().tensors,
        Schedule(unconditional_steps=4, batch_size=4, checkpoint_steps=4, seed=3, weights=None),
        checkpoints,
        snapshots=snapshots,
    )
    return model


def test_snapshots_are_even_and_include_both_ends() -> None:
    assert Snapshots(Path("x"), 3).steps(101) == [0, 50, 101]
    assert Snapshots(Path("x"), 5).steps(2) == [0, 1, 2]
    with pytest.raises(ValueError, match="1 snapshots"):
        Snapshots(Path("x"), 1)


def test_snapshots_hold_the_averaged_weights_of_both_stages_in_half_precision(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "snapshots", 5)
    stale = snapshots.path(7)
    stale.parent.mkdir()
    stale.write_bytes(b"of another training")
    torch.manual_seed(1)
    start = MaskGIT(TINY).state_dict()
    model = train_two_stages(tmp_path, snapshots)
    written = snapshots.written()
    assert [step for step, _ in written] == [0, 3, 6, 9, 12]
    assert sorted(path.name for path in snapshots.folder.iterdir()) == [path.name for _, path in written]
    for (_, path), state in zip((written[0], written[-1]), (start, model.state_dict()), strict=True):
        saved = load_file(path)
        assert saved.keys() == state.keys()
        for name, tensor in state.items():
            expected = tensor.half() if tensor.is_floating_point() else tensor
            assert torch.equal(saved[name], expected), name
    middle = load_file(written[2][1])
    assert not torch.equal(middle["head.bias"], load_file(written[3][1])["head.bias"])


def test_a_rerun_of_a_finished_training_leaves_the_snapshots(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "snapshots", 3)
    train_two_stages(tmp_path, snapshots, tmp_path / "checkpoints")
    before = {path.name: path.read_bytes() for _, path in snapshots.written()}
    train_two_stages(tmp_path, snapshots, tmp_path / "checkpoints")
    assert {path.name: path.read_bytes() for _, path in snapshots.written()} == before
