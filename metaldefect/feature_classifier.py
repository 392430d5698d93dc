"""The classifier on image features, for choosing among candidates and for measuring drawn images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Features = NDArray[np.float32]


def classifier(features: Features, labels: NDArray[np.str_], seed: int) -> Pipeline:
    """Logistic regression on standardised features `[N, D]`, classes weighted to count equally."""
    model = LogisticRegression(max_iter=2000, C=0.1, class_weight="balanced", random_state=seed)
    return make_pipeline(StandardScaler(), model).fit(features, labels)
