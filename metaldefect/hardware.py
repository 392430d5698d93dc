"""What this machine can do, and the environment variables that override it.

Hardware choices never live in `params.yaml`: moving to another machine must not rerun the pipeline.

- `METALDEFECT_DEVICE`: `cpu`, `cuda`, ... (default: CUDA where there is one)
- `METALDEFECT_THREADS`: threads of one torch process (default: all cores)
- `METALDEFECT_WORKERS`: processes for image work (default: all cores)
- `METALDEFECT_PRECISION`: `float32` or `bfloat16` (default: bfloat16 where the hardware multiplies it)
"""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from metaldefect.errors import UserError

if TYPE_CHECKING:
    import torch

BF16_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def cpu_flags() -> frozenset[str]:
    """CPU feature flags that the kernel reports (empty where `/proc/cpuinfo` has none)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def cpu_name() -> str:
    """The processor's model name, its core count and the bf16 units it has."""
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


def device() -> torch.device:
    """The device to compute on."""
    import torch

    return torch.device(
        os.environ.get("METALDEFECT_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    )


def workers() -> int:
    """Number of processes for image work, at least 1."""
    return positive_integer("METALDEFECT_WORKERS", os.cpu_count() or 1)


def positive_integer(variable: str, default: int) -> int:
    """An environment variable as an integer of at least 1; another value is an error naming it."""
    text = os.environ.get(variable)
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{variable}={text!r}: expected a whole number of at least 1")
    return int(text)


def set_threads() -> None:
    """Apply `METALDEFECT_THREADS` to torch."""
    import torch

    if os.environ.get("METALDEFECT_THREADS"):
        torch.set_num_threads(positive_integer("METALDEFECT_THREADS", 1))


# Parameters of glibc's mallopt: when to give freed memory back, and how many blocks may be mapped singly.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; whether the C library can do that.

    A training step frees and takes the same large tensors again. By default glibc gives each back to
    the kernel and pays for every page anew, which makes element-wise operations on the CPU several
    times slower. The price: the process stays as large as it ever was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def compute_dtype() -> torch.dtype:
    """The dtype for autocast: bfloat16 where the hardware multiplies it, else float32."""
    import torch

    wish = os.environ.get("METALDEFECT_PRECISION")
    if wish:
        if wish not in ("float32", "bfloat16"):
            raise UserError(f"METALDEFECT_PRECISION={wish!r}: expected float32 or bfloat16")
        return torch.float32 if wish == "float32" else torch.bfloat16
    if device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_flags() & set(BF16_CPU_FLAGS) else torch.float32


def autocast() -> AbstractContextManager[object]:
    """Autocast to `compute_dtype()` on `device()`; does nothing for float32."""
    import torch

    if compute_dtype() is torch.float32:
        return nullcontext()
    return torch.autocast(device().type, dtype=compute_dtype())


def lightning_precision() -> str:
    """`compute_dtype()` in Lightning's words."""
    import torch

    return "32-true" if compute_dtype() is torch.float32 else "bf16-mixed"
