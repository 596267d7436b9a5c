"""Environments and task distributions over their parameters."""
