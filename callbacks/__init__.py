"""Keras 3 callbacks for training in phases; each works alone, with or without Horovod."""
