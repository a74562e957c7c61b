"""Turn files into RGB pixels: formats, decoding, the resize rule and augmented views.

Everything outside this package imports these names from here.
"""

from tailorbird.images.augmentation import (
    GREY,
    Augmentation,
    View,
    draw_view,
    picture_for_views,
    view_random,
    warp,
)
from tailorbird.images.decoding import (
    MAX_PIXELS,
    MAX_SIDE,
    MOST_BYTES,
    Photo,
    decode,
    from_array,
    from_pil,
    load,
    read_bytes,
)
from tailorbird.images.formats import (
    ACCEPTED,
    EXTENSIONS,
    FORMATS,
    HEAD,
    SERVED,
    SERVED_MEDIA_TYPES,
    Format,
    identify,
    starts_like_a_photo,
)
from tailorbird.images.resizing import (
    DECODING,
    FILTERS,
    LEAST_SHARE,
    Pixels,
    ResizeRule,
    resize,
)

__all__ = [
    "ACCEPTED",
    "DECODING",
    "EXTENSIONS",
    "FILTERS",
    "FORMATS",
    "GREY",
    "HEAD",
    "LEAST_SHARE",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MOST_BYTES",
    "SERVED",
    "SERVED_MEDIA_TYPES",
    "Augmentation",
    "Format",
    "Photo",
    "Pixels",
    "ResizeRule",
    "View",
    "decode",
    "draw_view",
    "from_array",
    "from_pil",
    "identify",
    "load",
    "picture_for_views",
    "read_bytes",
    "resize",
    "starts_like_a_photo",
    "view_random",
    "warp",
]
