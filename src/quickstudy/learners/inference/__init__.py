"""Learners that infer what task they are in."""
