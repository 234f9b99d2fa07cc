"""What every room stands on: errors, files, settings, schedule, workers, clock, checkpoints."""
