"""`python -m pipeline.mlflow_view`: links to MLflow's pages about the pipeline runs.

- The list of runs with as many headline columns as fit on a screen. MLflow opens in its GenAI mode with an
  empty page, and its list of runs shows no metric. A view stored with the experiment, as the page's own Share
  button makes it, has the columns, the order and the filter.
- What serves beside the last runs, on MLflow's page that compares runs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

from metaldefect.errors import UserError
from pipeline.compare import find_runs
from pipeline.run import EXPERIMENT, connect_tracking

KEY = "headline"
SERVER = "http://127.0.0.1:5000"  # that `make ui` starts
TAGS = ("verdict", "profile", "git.commit", "data.md5")
# What fits on a screen: MLflow orders columns by name, and the last of all headline metrics are out of sight
COLUMNS = (
    "image_auroc",
    "au_pro",
    "f1_at_threshold",
    "cas_ratio",
    "class_agreement_independent",
    "kid_ratio",
    "ssim",
    "edge_iou_1px",
)
COMPARED = 4  # MLflow's page gives each run a column; more do not fit on a screen
PARENTS = "tags.profile != ''"  # only the parents of stages have this tag


def store_view() -> str:
    """Store the view with the experiment; returns the link's part after the server's address."""
    connect_tracking()
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    columns = [f"tags.`{name}`" for name in TAGS] + [f"metrics.`{name}`" for name in COLUMNS]
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


def comparison(root: Path, last: int = COMPARED) -> str | None:
    """The link to the page that compares the champion's run with the last ones, after the server's address.

    Args:
        root: the project's folder.
        last: how many of the last finished runs to compare.

    Returns:
        None if there are no two runs yet.
    """
    try:
        runs = [row.run_id for row in find_runs(root, last)]
    except UserError:
        return None
    if len(runs) < 2:
        return None
    import mlflow

    experiment = mlflow.MlflowClient().get_run(runs[0]).info.experiment_id
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"
    return f"/#/compare-runs?{query}&workflowType=machine_learning"


def server_address() -> str:
    """The address of MLflow's pages: `MLFLOW_TRACKING_URI` if it names a server, else that of `make ui`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri.rstrip("/") if uri.startswith("http") else SERVER


def links(root: Path, server: str | None = None) -> list[str]:
    """One line per page: what it shows, and its address.

    Args:
        root: the project's folder, from which this process runs.
        server: the address of MLflow's server; None: `server_address()`.
    """
    server = server or server_address()
    lines = [f"MLflow, all runs: {server}{store_view()}"]
    if (compared := comparison(root)) is not None:
        lines.append(f"MLflow, what serves and the last runs: {server}{compared}")
    return lines


if __name__ == "__main__":
    print("\n".join(links(Path(), *sys.argv[1:2])))
