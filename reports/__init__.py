"""Accuracies in; times, pictures, projections and entries out."""
