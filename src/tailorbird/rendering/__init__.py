"""Render pictures: thumbnails, heat-map overlays, contact sheets, and what a notebook shows."""
