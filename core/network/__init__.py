"""The network between the workers' hosts."""
