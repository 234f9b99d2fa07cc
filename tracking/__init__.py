"""Sends what a run writes to a tracker, MLflow or W&B. It reads the run folder alone."""
