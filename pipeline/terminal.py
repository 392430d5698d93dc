"""What a stage shows in the terminal: its own lines and progress bars, and no third-party noise."""

from __future__ import annotations

import logging
import os
import warnings

# Modules whose deprecation and hardware warnings are about their own insides, not about this run
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
    """Silence what third-party packages say about themselves; `METALDEFECT_VERBOSE=1` leaves all of it.

    Errors, and warnings that this project raises, stay.
    """
    if os.environ.get("METALDEFECT_VERBOSE"):
        return
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # MLflow sets its logger's level while it is imported
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category)
    for module in NOISY_WARNINGS:
        warnings.filterwarnings("ignore", category=UserWarning, module=module)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
