"""What flows between the parts, and how it is stored."""
