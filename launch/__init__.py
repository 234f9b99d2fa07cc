"""Processes: the command lines, the launcher, the supervisor, SageMaker."""
