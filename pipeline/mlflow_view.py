"""`python -m pipeline.mlflow_view`: the link to MLflow's list of pipeline runs with the headline columns.

MLflow opens in its GenAI mode with an empty page, and its list of runs shows no metric. A view stored with
the experiment, as the page's own Share button makes it, has the columns, the order and the filter.
"""

from __future__ import annotations

import json
import sys

from pipeline.headline import WORDS
from pipeline.run import EXPERIMENT, connect_tracking

KEY = "headline"
SERVER = "http://127.0.0.1:5000"
TAGS = ("verdict", "profile", "git.commit", "data.md5")
PARENTS = "tags.profile != ''"  # only the parents of stages have this tag


def store_view() -> str:
    """Store the view with the experiment; returns the link's part after the server's address."""
    connect_tracking()
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    columns = [f"tags.`{name}`" for name in TAGS] + [f"metrics.`{name}`" for name in WORDS]
    view = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "searchFilter": PARENTS,
        "selectedColumns": columns,
        "viewMaximized": True,
        "runListHidden": False,
    }
    key = f"mlflow.sharedViewState.{KEY}"
    client.set_experiment_tag(experiment.experiment_id, key, json.dumps(view))
    query = f"workflowType=machine_learning&viewStateShareKey={KEY}&compareRunsMode=TABLE"
    return f"/#/experiments/{experiment.experiment_id}/runs?{query}"


if __name__ == "__main__":
    print(f"{sys.argv[1] if len(sys.argv) > 1 else SERVER}{store_view()}")
