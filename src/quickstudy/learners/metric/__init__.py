"""Learners that compare a query with labelled examples."""
