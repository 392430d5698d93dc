"""Stage `merge`: combine the raw datasets into one validated sample table with leak-free splits."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import write_json
from metaldefect.image_files import Levels
from metaldefect.ingest.merge import DatasetSpec, InspectionSpec, MergeOptions, merge_datasets
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

OUTPUT = Path("data/merged")
REPORTS = Path("reports/merge")
METRICS = Path("metrics/merge.json")


def main(params: Params, run: StageRun) -> None:
    """Merge the datasets of `params.merge` into `data/merged`."""
    merge, root = params.merge, params.data.root
    datasets = [
        DatasetSpec(
            adapter=dataset.adapter,
            root=root / dataset.root,
            labels=dataset.labels,
            splits=dataset.splits,
            ignore=dataset.ignore,
            name=dataset.name,
            levels=Levels.of_setting(dataset.levels),
            scenes=dataset.scenes,
        )
        for dataset in merge.datasets
    ]
    options = MergeOptions(
        classes=params.data.classes,
        image_size=merge.image_size,
        validation=merge.split.validation,
        test=merge.split.test,
        seed=params.seed,
        duplicates=merge.duplicates,
        normalise_source=merge.normalise_source,
        max_rejected=merge.max_rejected,
        expected_counts=merge.expected_counts,
        channels=params.data.channels,
    )
    inspection = InspectionSpec(
        merge.inspection.adapter,
        root / merge.inspection.root,
        Levels.of_setting(merge.inspection.levels),
        merge.inspection.scenes,
        merge.inspection.labels,
        merge.inspection.ignore,
    )
    result = merge_datasets(datasets, inspection, OUTPUT, REPORTS, options)

    for note in dict.fromkeys([*result.summary["notes"], *result.inspection.notes]):
        print(f"note: {note}")
    write_json(METRICS, result.summary)
    run.log_metrics(result.summary)
    for report in sorted(REPORTS.iterdir()):
        run.log_artifact(report, "reports")


if __name__ == "__main__":
    run_stage("merge", main)
