"""Checkpoints in, accuracies out."""
