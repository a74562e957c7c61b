"""A sample wardrobe to try things on: drawn pictures of ten classes of clothes, different for every seed.

`outline`, `tops`, `bottoms` and `accessories` cut the garments, `materials` dyes and weaves, `scene` paints with light and
shadow, `picture` puts one picture together, `folder` writes hundreds of them.
"""

from tailorbird.demo.folder import write
from tailorbird.demo.picture import CLASSES, Drawing, draw

__all__ = ["CLASSES", "Drawing", "draw", "write"]
