"""The detector as an MLflow model (models from code): MLflow runs this file when it loads a version."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel


class DetectorModel(PythonModel):
    """Scores frames with the exported detector that was logged with this file."""

    def load_context(self, context: Any) -> None:
        """Load the bundle; it checks its hashes and scores its golden frames first."""
        from metaldefect.deploy.runtime import Detector

        self.detector = Detector.load(context.artifacts["bundle"], context.model_config["precision"])

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> pd.DataFrame:
        """Score frames of the signature; returns a row of `score` and `is_anomalous` for each."""
        found = [self.detector.predict(frame) for frame in np.asarray(model_input)]
        return pd.DataFrame(
            {
                "score": [detection.score for detection in found],
                "is_anomalous": [detection.is_anomalous for detection in found],
            }
        )


mlflow.models.set_model(DetectorModel())
