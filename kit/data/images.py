"""Image files: read as pixels whatever their format and mode, and looked at once to know which can't be.

N items
"""

import functools
import io

import imagehash
import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
from PIL import ExifTags, Image, ImageCms
from tqdm.contrib.concurrent import thread_map

from kit.core.cache import UNREADABLE, content_hashes, fingerprint, get_or_compute
from kit.core.console import Bar
from kit.core.exceptions import KitError, shorten

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # whatever a file is named; some others start programs
# 16 × 16 = 256 bits. The usual 8 × 8 hash loses a sixth of the copies that this one finds (see `kit.data.duplicates`).
HASH_SIZE = 16
DECODING = 2  # of what `as_seen` makes of a file
DECODER = f"{PIL.__version__} {DECODING}"  # belongs in the key of everything that is computed from pixels
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SAMPLE_FORMAT, PHOTOMETRIC = 339, 262  # tags of TIFF
RANGES = ((1 / 16, 1), (16, 255), (2**14, 2**16 - 1))  # by what the brightest pixel has at least and at most
# How Pillow stretches or cuts a PNG's samples to 8 bits, but not the one that the file names as transparent.
PNG_SAMPLES = {
    "L;2": lambda grey: grey * 85,
    "L;4": lambda grey: grey * 17,
    "RGB;16B": lambda colour: tuple(sample >> 8 for sample in colour),
}


def as_seen(image: Image.Image) -> Image.Image:
    """Return what a person sees of an opened image: RGB, the first frame, upright, transparent parts on white.

    Raise DECODING with any change to what this returns.
    """
    tiles = getattr(image, "tile", None)  # gone once loaded
    samples = tiles[0][3] if tiles else None  # in Pillow's words, how the file stores a sample
    image.load()
    seen = _upright(image)
    if seen.mode == "F" or seen.mode.startswith("I"):
        seen = _eight_bits(seen, image)
    elif "transparency" in seen.info and samples in PNG_SAMPLES:
        seen.info["transparency"] = PNG_SAMPLES[samples](seen.info["transparency"])
    if seen.mode == "LAB":  # Pillow's own conversions do not know it
        return ImageCms.applyTransform(seen, _lab_to_rgb())  # type: ignore[return-value]  # None only if in place
    if seen.mode in ("La", "RGBa"):  # premultiplied: converts to its usual form alone
        seen = seen.convert(seen.mode.upper())
    if seen.has_transparency_data:
        seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA"))
    return seen.convert("RGB")


def read_image(path: str, side: int | None = None) -> Image.Image:
    """Return the image at `path` as a person sees it (`as_seen`).

    `side`: pixels that are enough for its shorter side; a JPEG is decoded no larger than that asks for. Raises
    KitError, naming the file, if it can't be read, or is so large (over 179 million pixels) that it must be a trap.
    """
    try:
        return _decode(path, side)
    except Exception as error:  # Pillow's readers raise a dozen kinds for broken files
        raise KitError(f"{path} cannot be read as an image ({_reason(error)}): replace the file.") from error


def _decode(path: str, side: int | None) -> Image.Image:
    # as an open file: Pillow maps a TIFF that it opens by name, and shears one that is stored lying down
    with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
        if side:
            image.draft("RGB", (side, side))  # a square: the same however the image is turned later
        return as_seen(image)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 0))
    except Exception:  # a viewer shows an image whose EXIF is broken as it is stored
        turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """Return grey of more than 8 bits, integer or float, as 8 bits; `file`: the image before it was turned.

    PNG's 16 bits have a range of their own. A TIFF's values may have any: RANGES, if the brightest pixel is within one.
    All else, such as 12 bits or negative values, is stretched from darkest (or 0) to brightest, as viewers do, so that
    nothing turns black that is not. NaN is white, like all that is not there.
    """
    tags = getattr(file, "tag_v2", {})
    values = np.asarray(image)
    if (
        tags and values.dtype == np.int32 and tags.get(SAMPLE_FORMAT, (1,))[0] == 1
    ):  # unsigned, which Pillow reads as signed
        values = values.view(np.uint32)
    transparent = values == image.info.get("transparency", -1)
    values = values.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    ends = [65535] if file.format == "PNG" else [end for least, end in RANGES if least <= high <= end]
    if low >= 0:
        low, high = 0, ends[0] if ends else high
    shares = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        shares = 1 - shares
    grey = Image.fromarray((255 * np.nan_to_num(shares, nan=1) + 0.5).astype(np.uint8))
    if transparent.any():
        grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey


@functools.cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "no JPEG, PNG, GIF, WebP, BMP or TIFF"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_pixels(path: str | None, size: int) -> np.ndarray:
    """The image at `path` as `[size, size, 3]`, 0 to 255; where there is none, white. Raises KitError."""
    if path is None:
        return np.full((size, size, 3), 255, np.uint8)
    image = read_image(path, size)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def thumbnail(path: str, size: int) -> bytes:
    """A JPEG no larger than `size` a side. Raises KitError."""
    image = read_image(path, size)
    image.thumbnail((size, size))
    image.save(buffer := io.BytesIO(), "JPEG", quality=85)
    return buffer.getvalue()


def inspect_images(paths: list[str | None]) -> pd.DataFrame:
    """`bytes` (a hash of the file's contents), `perceptual` (ImageHash's phash, 64 hexadecimal digits) and `blank` (why
    there is no readable image, without the two others: "missing" where the path is None, or "corrupt: …"; else "") of
    each path `[N]`.

    Each file is decoded once, and what was found is kept by its contents.
    """
    contents = content_hashes(paths, strict=False)
    there = [place for place, found in enumerate(contents) if found and not found.startswith(UNREADABLE)]
    keys = [fingerprint(contents[place], DECODER) for place in there]

    def compute(new: list[int]) -> list[str]:
        return thread_map(
            _inspect_image, [paths[there[i]] for i in new], desc="looking at images", leave=False, tqdm_class=Bar
        )

    seen = pd.Series(contents, dtype=object)
    seen.iloc[there] = get_or_compute(f"images_{HASH_SIZE}", keys, pa.string(), compute).to_pylist()
    bad = seen.str.startswith(UNREADABLE).astype(bool)
    blank = ("corrupt: " + seen.str[1:]).where(bad, "").mask(seen == "", "missing")
    return pd.DataFrame({"bytes": contents, "perceptual": seen}).where(blank == "", None).assign(blank=blank)


def _inspect_image(path: str) -> str:
    try:  # no more is decoded than twice what the hash looks at
        return str(imagehash.phash(_decode(path, 128), HASH_SIZE))
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault and not the file's: it must not be remembered
            raise KitError(f"{path} cannot be read ({error.strerror}): try again, or replace the file.") from error
        return f"{UNREADABLE}{_reason(error)}"


def check_images(frames: list[pd.DataFrame], corrupt: str) -> list[pd.DataFrame]:
    """Adds the column `blank` to frames with an `image_path`, which is set to None where the file is no image; gives
    what `look_at` found of each.

    `corrupt`: "blank" allows that, "error" does not, "few" does for one in a hundred. Raises KitError.
    """
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    paths = [path for frame in frames for path in frame["image_path"]]
    looks = inspect_images(paths)
    bad = [
        f"{path} ({why.removeprefix('corrupt: ')})"
        for path, why in zip(paths, looks["blank"], strict=True)
        if path and why
    ]
    there = sum(path is not None for path in paths)
    parts = [looks.iloc[rows].reset_index(drop=True) for rows in np.split(np.arange(len(looks)), ends)]
    for frame, part in zip(frames, parts, strict=True):
        frame["blank"] = part["blank"]
        frame.loc[frame["blank"] != "", "image_path"] = None
    if len(bad) > {"error": 0, "few": there // 100, "blank": there}[corrupt]:
        raise KitError(
            f"{len(bad)} of the {there} images can't be read: {shorten(bad, 3)}; replace the files, or "
            f"train with white pictures in their place: -p corrupt blank."
        )
    return parts
