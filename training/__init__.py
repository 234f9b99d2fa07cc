"""The run: strategies, workers, the run folder, evaluation and the report."""
