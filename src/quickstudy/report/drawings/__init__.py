"""Pictures of what was recorded in a test, by its declared kind (see quickstudy.evaluate.config.Drawing)."""
