"""Stage `sample`: procedural images in the real datasets' layouts, so that no download is needed."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import write_json
from metaldefect.errors import UserError
from metaldefect.procedural.datasets import SampleCounts, write_sample_datasets
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

OUTPUT = Path("data/sample")
METRICS = Path("metrics/sample.json")


def main(params: Params, run: StageRun) -> None:
    """Write `data/sample` and its image counts."""
    if params.sample is None:
        raise UserError("params.yaml says `sample: null`: this project has images of its own")
    written = write_sample_datasets(OUTPUT, SampleCounts(**params.sample.model_dump()), params.seed)
    metrics = {"images": written, "total": sum(written.values())}
    write_json(METRICS, metrics)
    run.log_metrics(metrics)


if __name__ == "__main__":
    run_stage("sample", main)
