"""Pictures that say how they were made: facts in the tEXt chunks of a PNG.

Image.open("seed0003.png").text["seed"]     "3"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gan3d.results import write_whole


def write_png(path: Path, picture: np.ndarray, facts: Mapping[str, str]) -> Path:
    """Writes a picture with facts about it; the file appears when it is complete.

    Args:
        path: the new file; an existing one is replaced.
        picture: uint8 [h w 3].
        facts: texts by keyword (of 1 to 79 Latin-1 characters); `Image.open(path).text` gives them
            back.
    """
    info = PngInfo()
    for keyword, text in facts.items():
        info.add_text(keyword, text)
    image = Image.fromarray(picture)
    return write_whole(path, lambda partial: image.save(partial, format="png", pnginfo=info))
