"""How a learner is improved."""
