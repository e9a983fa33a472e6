"""Runs at the coordinator: rounds, strategies, admission, checkpoints, report."""
