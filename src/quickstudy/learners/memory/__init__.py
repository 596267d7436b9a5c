"""Learners that adapt by remembering."""
