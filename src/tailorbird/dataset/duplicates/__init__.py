"""Find identical and nearly identical photos."""
