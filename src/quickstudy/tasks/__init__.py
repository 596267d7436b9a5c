"""Distributions of tasks, each with a `split()` into training and held-out tasks."""
