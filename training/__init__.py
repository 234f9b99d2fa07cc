"""One run: its recipe, data, model, stages, callbacks, log and folder."""
