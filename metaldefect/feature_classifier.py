"""A classifier on image features: it chooses among candidates and measures drawn images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Features = NDArray[np.float32]


def classifier(features: Features, labels: NDArray[np.str_], seed: int) -> Pipeline:
    """Fit logistic regression on standardised features `[N, D]`; every class gets equal weight."""
    model = LogisticRegression(max_iter=2000, C=0.1, class_weight="balanced", random_state=seed)
    return make_pipeline(StandardScaler(), model).fit(features, labels)
