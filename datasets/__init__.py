"""The data: record folders, their manifest, the resizer and the demo's digits."""
