"""The gate: whether a retrained detector, the challenger, may replace the champion, which serves."""
