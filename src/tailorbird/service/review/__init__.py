"""The local page of `tailorbird review`."""
