"""The format of the records, and what describes a set of them."""
