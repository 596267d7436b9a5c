"""Reinforcement learning inside a task."""
