"""Keras 3 optimizers: averaged over workers, and the original's momentum."""
