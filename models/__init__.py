"""Classifiers as plain Keras models, which know nothing of the rest of the project."""
