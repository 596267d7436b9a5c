"""What a good adaptation is worth."""
