"""What a stage or command prints: its own lines and progress bars, without third-party noise."""

from __future__ import annotations

import logging
import os
import warnings

# Their deprecation and hardware warnings concern their internals, not this run
NOISY_WARNINGS = (
    r"lightning(\.|$)",
    r"torch(\.|$)",
    r"lpips(\.|$)",
    r"torchvision(\.|$)",
    r"mlflow(\.|$)",
    r"great_expectations(\.|$)",
    r"openvino(\.|$)",
    r"nncf(\.|$)",
    r"onnxscript(\.|$)",
    r"dvc(\.|$)",
)
NOISY_LOGGERS = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "alembic",
    "mlflow",
    "great_expectations",
    "nncf",
    "onnxscript",
    "torch.onnx",
    "torch.utils.cpp_extension",
    "matplotlib",
    "py.warnings",
)


def quiet() -> None:
    """Silence third-party log output and warnings, unless `METALDEFECT_VERBOSE=1`.

    Errors and this project's own warnings stay visible.
    """
    if os.environ.get("METALDEFECT_VERBOSE"):
        return
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # MLflow sets its logger's level on import
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category)
    for module in NOISY_WARNINGS:
        warnings.filterwarnings("ignore", category=UserWarning, module=module)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
