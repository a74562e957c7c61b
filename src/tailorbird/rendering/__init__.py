"""Draw pictures: thumbnails, heat-map overlays, contact sheets, and HTML for notebooks."""
