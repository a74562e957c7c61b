"""The local page on which photos are labelled."""
