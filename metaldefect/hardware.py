"""What this machine can do, and the environment variables that override it.

Hardware choices stay out of `params.yaml`, because moving to another machine must not rerun the pipeline.

- `METALDEFECT_DEVICE`: `cpu`, `cuda`, `cuda:1`, `mps` (default: the first available of cuda, mps, cpu)
- `METALDEFECT_THREADS`: threads of one process, in torch and OpenVINO (default: all cores)
- `METALDEFECT_WORKERS`: processes for image work (default: all cores)
- `METALDEFECT_PRECISION`: `float32` or `bfloat16` (default: bfloat16 if the device has units for it)

Only this module chooses the device. Loaders (`load_tokenizer`, `load_maskgit`, `load_detector`) put their
model on `device()`, and `trainer_arguments()` passes the same choice to Lightning. Library functions compute
on the device of the model that they receive: they move inputs there, and return results on the CPU if numpy
or a file needs them next.

Random numbers come from CPU generators and are then moved, so a seed gives the same noise, masks and tokens
on every device. The one exception is dropout inside networks, which uses the device's generator.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaldefect.errors import UserError

if TYPE_CHECKING:
    import torch

BF16_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def cpu_flags() -> frozenset[str]:
    """CPU feature flags that the kernel reports; empty if `/proc/cpuinfo` has none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def cpu_name() -> str:
    """The processor's model name, core count and bf16 units, as text."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    units = [flag for flag in BF16_CPU_FLAGS if flag in cpu_flags()]
    return f"{name}, {os.cpu_count()} cores, {'+'.join(units) or 'no bf16 units'}"


def machine_name() -> str:
    """What computes here, as text: the GPU in use, if any, and the processor."""
    import torch

    chosen = device()
    gpu = f"{torch.cuda.get_device_name(chosen)}, " if chosen.type == "cuda" else ""
    return gpu + cpu_name()


def available_devices() -> list[str]:
    """Devices of this machine in order of preference: `cuda`, `cuda:1` and so on, `mps`, `cpu`."""
    import torch

    gpus = [f"cuda:{index}" if index else "cuda" for index in range(torch.cuda.device_count())]
    found = gpus if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def device() -> torch.device:
    """The device to compute on: `METALDEFECT_DEVICE`, or the first of `available_devices()`.

    Raises:
        UserError: this machine lacks the device that `METALDEFECT_DEVICE` names.
    """
    import torch

    there = available_devices()
    asked = os.environ.get("METALDEFECT_DEVICE") or there[0]
    if (asked[:-2] if asked.endswith(":0") else asked) not in there:
        raise UserError(f"METALDEFECT_DEVICE={asked!r}: this machine has {', '.join(there)}")
    return torch.device(asked)


def use_device(name: str) -> torch.device:
    """Make this process and its children compute on the device `name`; `auto` changes nothing.

    Raises:
        UserError: this machine lacks the device.
    """
    if name != "auto":
        os.environ["METALDEFECT_DEVICE"] = name
    return device()


def trainer_arguments() -> dict[str, Any]:
    """Arguments that make Lightning's Trainer use `device()` and no other device."""
    chosen = device()
    return {
        "accelerator": chosen.type,
        "devices": [chosen.index or 0] if chosen.type == "cuda" else 1,
        "precision": "bf16-mixed" if autocast_dtype(chosen).itemsize == 2 else "32-true",
    }


def device_of(module: torch.nn.Module) -> torch.device:
    """The device of a module's parameters."""
    return next(module.parameters()).device


def workers() -> int:
    """Number of processes for image work, at least 1."""
    return positive_integer("METALDEFECT_WORKERS", os.cpu_count() or 1)


def positive_integer(variable: str, default: int) -> int:
    """Read an environment variable as an integer of at least 1; `default` if it is unset.

    Raises:
        UserError: the variable holds anything else.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{variable}={text!r}: expected a whole number of at least 1")
    return int(text)


def threads() -> int | None:
    """`METALDEFECT_THREADS`; None if it is unset: all cores."""
    return positive_integer("METALDEFECT_THREADS", 0) or None


def set_threads() -> None:
    """Apply `METALDEFECT_THREADS` to torch."""
    import torch

    if (count := threads()) is not None:
        torch.set_num_threads(count)


def request_deterministic_kernels() -> None:
    """Ask torch for kernels whose results repeat, with a warning where there is none.

    `torch.use_deterministic_algorithms` would do the same, but imports torch's compiler first, which takes
    seconds at every start.
    """
    import torch

    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Deterministic mode also fills every new tensor with NaN, which costs time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def one_thread_per_call() -> Iterator[None]:
    """Let torch compute each call on one thread, for work that runs several calls at a time.

    Results then do not depend on the number of cores: sums are cut the same way everywhere.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Parameters of glibc's mallopt: when to return freed memory, and how many blocks get their own mapping.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees; return whether the C library supports it.

    Every training step frees and allocates the same large tensors. By default glibc returns each of them
    to the kernel and faults every page in again, which makes element-wise CPU operations several times
    slower. The price: the process never shrinks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def autocast_dtype(on: torch.device | None = None) -> torch.dtype:
    """The dtype for autocast: bfloat16 if the device has units for it, else float32.

    A CPU without bf16 units still obeys `METALDEFECT_PRECISION=bfloat16`: PyTorch emulates it, slowly.

    Args:
        on: the device; None takes `device()`.

    Raises:
        UserError: `METALDEFECT_PRECISION` is invalid, or asks for bfloat16 on a GPU that lacks it.
    """
    import torch

    on = on or device()
    if on.type == "cuda":
        has_units = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = on.type == "cpu" and bool(cpu_flags() & set(BF16_CPU_FLAGS))
    wish = os.environ.get("METALDEFECT_PRECISION")
    if wish and wish not in ("float32", "bfloat16"):
        raise UserError(f"METALDEFECT_PRECISION={wish!r}: expected float32 or bfloat16")
    if wish == "bfloat16" and not has_units and on.type != "cpu":
        raise UserError(f"METALDEFECT_PRECISION=bfloat16: {on} does not multiply bfloat16; leave it unset")
    wide = wish == "float32" or not (has_units or wish)
    return torch.float32 if wide else torch.bfloat16


def autocast(on: torch.device | None = None) -> AbstractContextManager[object]:
    """Autocast to `autocast_dtype(on)` on `on` (None takes `device()`); does nothing for float32."""
    import torch

    on = on or device()
    if autocast_dtype(on) is torch.float32:
        return nullcontext()
    return torch.autocast(on.type, dtype=torch.bfloat16)
