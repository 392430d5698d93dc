"""The report: everything that a run measured and drew, as one page that works offline."""
