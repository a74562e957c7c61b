"""Draw sample pictures of ten classes of clothes, reproducible by seed, for the demo and the tests.

`outline` holds the geometry, `garments` the cut of each class, `fabric` colours, patterns and
backdrops, `painting` renders parts with shading and shadows, `picture` composes one picture and
`folder` writes a dataset of them.
"""

from tailorbird.demo.folder import write
from tailorbird.demo.picture import CLASSES, Drawing, draw

__all__ = ["CLASSES", "Drawing", "draw", "write"]
