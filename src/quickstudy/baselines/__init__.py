"""Strategies and oracles with nothing to learn, to compare learners with."""
