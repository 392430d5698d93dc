"""MLflow's registry: every challenger with its verdict and its lineage, and which one serves.

The link `models/champion` is the truth; the alias `champion` follows it. A version's tags lead from a
deployed bundle (`bundle`) to the code, the lock file, the data, and the tokenizer and MaskGIT that drew its
defects.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import chdir
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaldefect.deploy.bundle import FrameRule, bundle_version, read_metadata
from pipeline.champion import CHALLENGER, current
from pipeline.lineage import locked_stages
from pipeline.parent import DATA_TAG, LOCK_TAG, data_hash, lock_md5
from pipeline.run import connect_tracking, git_commit

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

DETECTOR = "metaldefect-detector"
PARTS = {"metaldefect-tokenizer": Path("models/vq"), "metaldefect-maskgit": Path("models/maskgit")}
CODE = Path(__file__).with_name("detector_model.py")
CHAMPION_ALIAS, CHALLENGER_ALIAS = "champion", "challenger"
BUNDLE_TAG = "bundle"


def register(root: Path, tree: Path, bundle: Path, run_id: str, verdict: Mapping[str, Any]) -> str:
    """Register a challenger after its verdict, and let the aliases follow the links.

    Args:
        root: the project's folder, with the store.
        tree: where the pipeline ran: its lock file and models.
        bundle: the exported detector.
        run_id: the pipeline's parent run.
        verdict: content of `verdict.json`.

    Returns:
        The number of the version.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with chdir(root):
        connect_tracking()
        import mlflow

        found = find(bundle_version(bundle))
        if found is None:
            tags = lineage_tags(tree, bundle) | register_parts(tree, run_id)
            uri = log_detector(bundle, run_id, str(verdict["gate"]["precision"]))
            found = str(mlflow.register_model(uri, DETECTOR, tags=tags).version)
        client = mlflow.MlflowClient()
        before = verdict["champion"]
        told = {
            "verdict": verdict["verdict"],
            "reason": verdict["reason"][:5000],
            "gate_md5": verdict["gate_md5"],
            "holdout_sha256": verdict["holdout"]["sha256"],
            "previous_champion": before["version"] if before else "none",
        }
        for key, value in told.items():
            client.set_model_version_tag(DETECTOR, found, key, value)
        for key in ("verdict", "reason"):
            client.set_tag(run_id, key, told[key])
        client.set_tag(run_id, BUNDLE_TAG, bundle_version(bundle))
    follow_links(root)
    return found


def log_detector(bundle: Path, run_id: str, precision: str) -> str:
    """Log the bundle as a pyfunc model in a run that may have ended; returns its URI."""
    import mlflow

    # MLflow asks for an input example, which it would run on a detector that has just passed the gate
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")
        logged = mlflow.pyfunc.log_model(
            name="detector",
            python_model=str(CODE),
            artifacts={"bundle": str(bundle)},
            model_config={"precision": precision},
            signature=signature_of(read_metadata(bundle).input),
            pip_requirements=[f"metaldefect=={package_version('metaldefect')}"],
        )
    return str(logged.model_uri)


def signature_of(rule: FrameRule) -> ModelSignature:
    """The pyfunc model's signature: frames `[N, H, W]`, or `[N, H, W, 3]` of a detector that sees colour.

    Their dtype is uint8, or uint16 of a detector for 16-bit frames.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    shape = (-1, -1, -1) if rule.seen == 1 else (-1, -1, -1, rule.seen)
    dtype = np.dtype(np.uint8 if rule.type == "u8" else np.uint16)
    answer = Schema([ColSpec(DataType.double, "score"), ColSpec(DataType.boolean, "is_anomalous")])
    return ModelSignature(inputs=Schema([TensorSpec(dtype, shape)]), outputs=answer)


def origin_tags(tree: Path) -> dict[str, str]:
    """From a model to code, lock file and data of the pipeline run that made it; without what is unknown."""
    lock = tree / "dvc.lock"
    with chdir(tree):
        commit = git_commit()
    tags = {
        "git.commit": "" if commit == "unknown" else commit,
        LOCK_TAG: lock_md5(lock) if lock.is_file() else "",
        DATA_TAG: data_hash(lock),
    }
    return {key: value for key, value in tags.items() if value}


def lineage_tags(tree: Path, bundle: Path) -> dict[str, str]:
    """From the bundle to code, lock file and data; what is unknown is left out."""
    lineage = read_metadata(bundle).lineage
    tags = {
        BUNDLE_TAG: bundle_version(bundle),
        "git.commit": lineage.git_commit,
        "mlflow.export_run": lineage.mlflow_run,
        "model_sha256": lineage.model_sha256,
        "training_images_sha256": lineage.data_sha256,
    }
    return origin_tags(tree) | {key: value for key, value in tags.items() if value}


def register_parts(tree: Path, run_id: str) -> dict[str, str]:
    """Register tokenizer and MaskGIT, once per content.

    Returns:
        Tags of the detector that name their versions.
    """
    import mlflow

    client = mlflow.MlflowClient()
    outs = {out["path"]: out.get("md5", "") for made in locked_stages(tree / "dvc.lock").values()
            for out in made.get("outs", [])}  # fmt: skip
    tags = {}
    for name, folder in PARTS.items():
        md5 = outs.get(str(folder), "")
        if not md5 or not (tree / folder).is_dir():
            continue
        known = client.search_model_versions(f"name = '{name}' and tags.`dvc.md5` = '{md5}'")
        if known:
            tags[name] = str(known[0].version)
            continue
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        client.log_artifacts(run_id, str(tree / folder), name)
        source = f"runs:/{run_id}/{name}"
        made = client.create_model_version(name, source, run_id, tags={"dvc.md5": md5} | origin_tags(tree))
        tags[name] = str(made.version)
    return tags


def find(version: str) -> str | None:
    """The registry's number of a bundle's version, or None."""
    import mlflow

    query = f"name = '{DETECTOR}' and tags.`{BUNDLE_TAG}` = '{version}'"
    found = mlflow.MlflowClient().search_model_versions(query)
    return str(found[0].version) if found else None


def follow_links(root: Path) -> dict[str, str | None]:
    """Move the aliases to the versions that `models/champion` and `models/challenger` lead to.

    Returns:
        The registry's number by alias; None where there is no link, or the bundle was never registered.
    """
    served, waiting = current(root), current(root, CHALLENGER)
    found: dict[str, str | None] = {}
    with chdir(root):
        connect_tracking()
        import mlflow

        client = mlflow.MlflowClient()
        known = client.search_registered_models(f"name = '{DETECTOR}'")
        for alias, folder in ((CHAMPION_ALIAS, served), (CHALLENGER_ALIAS, waiting)):
            number = find(folder.name) if known and folder is not None else None
            found[alias] = number
            if number is not None:
                client.set_registered_model_alias(DETECTOR, alias, number)
            elif known and alias in known[0].aliases:
                client.delete_registered_model_alias(DETECTOR, alias)
    return found
