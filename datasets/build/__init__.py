"""From image files to records."""
