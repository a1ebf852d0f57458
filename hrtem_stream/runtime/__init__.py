"""Processes: running a stage, metrics, logs, supervision."""
