"""Where a builder's images come from: trees of folders and archives."""
