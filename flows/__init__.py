"""Orchestration: Prefect runs DVC's own graph, on demand and on a schedule."""
