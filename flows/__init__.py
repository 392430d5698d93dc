"""Orchestration: Prefect runs the graph of `dvc.yaml`, on demand and on a schedule."""
