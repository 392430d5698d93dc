"""One place decides on the device, and says what is there when the one asked for is not."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from metaldefect import hardware
from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.train import run_training
from metaldefect.errors import UserError
from metaldefect.hardware import autocast_dtype, available_devices, device, trainer_arguments, use_device
from metaldefect.training.module import Trainee
from metaldefect.training.trainer import fit


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what a test leaves in the environment is taken back
    for name in ("METALDEFECT_DEVICE", "METALDEFECT_PRECISION"):
        monkeypatch.setenv(name, "")


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False, bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    # By default PyTorch counts bf16 that it emulates as supported
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "there"),
    [
        (2, True, ["cuda", "cuda:1", "mps", "cpu"]),
        (1, False, ["cuda", "cpu"]),
        (0, True, ["mps", "cpu"]),
        (0, False, ["cpu"]),
    ],
)
def test_the_first_device_there_is_the_default(
    monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, there: list[str]
) -> None:
    pretend(monkeypatch, gpus=gpus, mps=mps)
    assert available_devices() == there
    assert device() == torch.device(there[0])


@pytest.mark.parametrize("asked", ["cuda", "cuda:2", "mps", "tpu"])
def test_a_device_asked_for_and_absent_is_an_error_that_says_what_is_there(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    pretend(monkeypatch, gpus=2 if asked == "cuda:2" else 0)
    monkeypatch.setenv("METALDEFECT_DEVICE", asked)
    there = "cuda, cuda:1, cpu" if asked == "cuda:2" else "cpu"
    with pytest.raises(UserError, match=f"METALDEFECT_DEVICE='{asked}': this machine has {there}$"):
        device()
    with pytest.raises(UserError, match="this machine has"):
        trainer_arguments()


def test_use_device_is_for_this_process_and_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=1)
    assert use_device("auto").type == "cuda"
    assert use_device("cpu").type == "cpu"
    assert hardware.os.environ["METALDEFECT_DEVICE"] == "cpu"
    assert use_device("auto").type == "cpu"


@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        ("cpu", {"accelerator": "cpu", "devices": 1}),
        ("cuda", {"accelerator": "cuda", "devices": [0]}),
        ("cuda:1", {"accelerator": "cuda", "devices": [1]}),
        ("mps", {"accelerator": "mps", "devices": 1}),
    ],
)
def test_lightning_gets_one_device_and_the_one_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, asked: str, arguments: dict[str, object]
) -> None:
    pretend(monkeypatch, gpus=4, mps=True)
    monkeypatch.setenv("METALDEFECT_DEVICE", asked)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    precision = "32-true" if asked == "mps" else "bf16-mixed"
    assert trainer_arguments() == arguments | {"precision": precision}


@pytest.mark.parametrize(
    ("kind", "flags", "bf16", "dtype"),
    [
        ("cpu", {"avx2"}, True, torch.float32),
        ("cpu", {"amx_bf16"}, False, torch.bfloat16),
        ("cuda", {"amx_bf16"}, False, torch.float32),
        ("cuda", set(), True, torch.bfloat16),
        ("mps", {"amx_bf16"}, True, torch.float32),
    ],
)
def test_bfloat16_is_used_where_the_device_in_use_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, flags: set[str], bf16: bool, dtype: torch.dtype
) -> None:
    pretend(monkeypatch, gpus=1, mps=True, bf16=bf16)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert autocast_dtype(torch.device(kind)) is dtype
    monkeypatch.setenv("METALDEFECT_DEVICE", kind)
    assert autocast_dtype() is dtype
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    assert autocast_dtype() is torch.float32
    monkeypatch.setenv("METALDEFECT_PRECISION", "bfloat16")
    if dtype is torch.bfloat16 or kind == "cpu":
        assert autocast_dtype() is torch.bfloat16
    else:
        with pytest.raises(UserError, match=f"{kind} does not multiply bfloat16"):
            autocast_dtype()


class Stop(Exception):  # noqa: N818
    """Ends a training at the Trainer's door."""


@pytest.fixture
def trainer_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []

    def trainer(**arguments: object) -> None:
        calls.append(arguments)
        raise Stop

    monkeypatch.setattr(pl, "Trainer", trainer)
    return calls


class Untrained(Trainee):
    def content(self) -> dict[str, object]:
        return {}


class NoBatches:
    def batch(self, step: int) -> torch.Tensor:
        raise AssertionError("the Trainer never starts")

    def content(self) -> dict[str, object]:
        return {}


def test_the_one_trainer_asks_lightning_for_the_chosen_device(
    monkeypatch: pytest.MonkeyPatch, trainer_calls: list[dict[str, object]]
) -> None:
    pretend(monkeypatch, gpus=4)
    monkeypatch.setenv("METALDEFECT_DEVICE", "cuda:1")
    with pytest.raises(Stop):
        fit(Untrained(), NoBatches(), steps=1, epoch_steps=1, seed=0, checkpoint_directory=None)
    assert [(call["accelerator"], call["devices"]) for call in trainer_calls] == [("cuda", [1])]


def test_train_with_an_absent_accelerator_stops_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch)
    settings = TrainSettings(output=tmp_path / "out", source="synthetic", steps=1, accelerator="cuda")
    with pytest.raises(UserError, match="METALDEFECT_DEVICE='cuda': this machine has cpu"):
        run_training(settings)
    assert not list(tmp_path.iterdir())
