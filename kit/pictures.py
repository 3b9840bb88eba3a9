"""Image files: read as pixels whatever their format and mode, and looked at once to know which can't be.

N items
"""

import io

import imagehash
import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from kit.cache import UNREADABLE, content_hashes, digest, recall
from kit.config import KitError
from kit.console import Bar

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # whatever a file is named; some others start programs
# 16 × 16 = 256 bits. The usual 8 × 8 hash loses a sixth of the copies that this one finds (see `kit.twins`).
HASH_SIZE = 16


def read_picture(path: str, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of the image at `path`, transparent parts on white, as `mode` ("RGB" or "L").

    `size`: at least so large is enough; a JPEG is decoded no larger than that asks for. Raises KitError, naming the
    file, where it can't be read, or is so large (over 179 million pixels) that it must be a trap.
    """
    try:
        return _decode(path, mode, size)
    except Exception as error:  # Pillow's readers raise a dozen kinds for broken files
        raise KitError(f"{path} cannot be read as an image ({_reason(error, path)}): replace the file.") from error


def _decode(path: str, mode: str, size: tuple[int, int] | None) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        if size:
            image.draft(mode, size)
        image.load()
        if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them to 8
            image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return _on_white(image).convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    """The image, transparent parts on white; one without any as it is."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _reason(error: Exception, path: str) -> str:
    return getattr(error, "strerror", None) or str(error).replace(repr(path), "the file") or type(error).__name__


def read_pixels(path: str | None, size: int) -> np.ndarray:
    """The image at `path` as `[size, size, 3]`, 0 to 255; where there is none, white. Raises KitError."""
    if path is None:
        return np.full((size, size, 3), 255, np.uint8)
    image = read_picture(path, size=(size, size))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def thumbnail(path: str, size: int) -> bytes:
    """A JPEG no larger than `size` a side. Raises KitError."""
    image = read_picture(path, size=(size, size))
    image.thumbnail((size, size))
    image.save(buffer := io.BytesIO(), "JPEG", quality=85)
    return buffer.getvalue()


def look_at(paths: list[str | None]) -> pd.DataFrame:
    """`bytes` (a hash of the file's contents), `perceptual` (ImageHash's phash, 64 hexadecimal digits) and `blank` (why
    there is no readable image, without the two others: "missing" where the path is None, or "corrupt: …"; else "") of
    each path `[N]`.

    Each file is decoded once, and what was found is kept by its contents.
    """
    contents = content_hashes(paths, strict=False)
    there = [place for place, found in enumerate(contents) if found and not found.startswith(UNREADABLE)]
    keys = [digest(contents[place], PIL.__version__) for place in there]

    def compute(new: list[int]) -> list[str]:
        return thread_map(_look, [paths[there[i]] for i in new], desc="looking at images", leave=False, tqdm_class=Bar)

    seen = pd.Series(contents, dtype=object)
    seen.iloc[there] = recall(f"images_{HASH_SIZE}", keys, pa.string(), compute).to_pylist()
    bad = seen.str.startswith(UNREADABLE).astype(bool)
    blank = ("corrupt: " + seen.str[1:]).where(bad, "").mask(seen == "", "missing")
    return pd.DataFrame({"bytes": contents, "perceptual": seen}).where(blank == "", None).assign(blank=blank)


def _look(path: str) -> str:
    try:  # no more is decoded than twice what the hash looks at
        return str(imagehash.phash(_decode(path, "L", (128, 128)), HASH_SIZE))
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault and not the file's: it must not be remembered
            raise KitError(f"{path} cannot be read ({error.strerror}): try again, or replace the file.") from error
        return f"{UNREADABLE}{_reason(error, path)}"
