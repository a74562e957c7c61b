"""Find identical photos and other copies of one picture."""
