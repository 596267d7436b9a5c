"""Learners whose weights for a task are generated or transferred from shared knowledge."""
