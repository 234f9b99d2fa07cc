"""Images: building records, checking them, and reading them as batches."""
