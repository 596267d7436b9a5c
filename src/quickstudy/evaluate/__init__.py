"""Meta-testing."""
