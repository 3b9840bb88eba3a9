"""Image files: read as pixels whatever their format and mode, and inspected once to find the unreadable ones.

N items
"""

import functools
import io
import itertools
from collections.abc import Iterable

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

# By content, not by name. Pillow's readers of some other formats start programs.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
# 16 × 16 = 256 bits. The usual 8 × 8 hash misses a sixth of the copies that this one finds (see `kit.data.duplicates`).
HASH_SIZE = 16
DECODING = 2  # version of the output of `to_rgb`
DECODER = f"{PIL.__version__} {DECODING}"  # part of the cache key of everything that is computed from pixels
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
RANGES = ((1 / 16, 1), (16, 255), (2**14, 2**16 - 1))  # possible values of the brightest pixel, from and to
# Pillow scales or truncates a PNG's samples to 8 bits, but not the value that the file declares transparent.
PNG_SAMPLES = {
    "L;2": lambda grey: grey * 85,
    "L;4": lambda grey: grey * 17,
    "RGB;16B": lambda colour: tuple(sample >> 8 for sample in colour),
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as a person sees it: RGB, the first frame, upright, transparent parts on white.

    Increase DECODING with every change to the result.
    """
    tiles = getattr(image, "tile", None)  # load() removes it
    samples = tiles[0][3] if tiles else None  # Pillow's name of the sample format in the file
    image.load()
    seen = _upright(image)
    if seen.mode == "F" or seen.mode.startswith("I"):
        seen = _eight_bits(seen, image)
    elif "transparency" in seen.info and samples in PNG_SAMPLES:
        seen.info["transparency"] = PNG_SAMPLES[samples](seen.info["transparency"])
    if seen.mode == "LAB":  # convert() does not support it
        return ImageCms.applyTransform(seen, _lab_to_rgb())  # type: ignore[return-value]  # None only if in place
    if seen.mode in ("La", "RGBa"):  # premultiplied: can only be converted to its plain form
        seen = seen.convert(seen.mode.upper())
    if seen.has_transparency_data:
        seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA"))
    return seen.convert("RGB")


def read_image(path: str, side: int | None = None) -> Image.Image:
    """Return the image at `path` as a person sees it (`to_rgb`).

    `side`: the number of pixels that suffices for its shorter side; a JPEG is decoded no larger than necessary. Raise
    KitError, naming the file, if it can't be read or has over 179 million pixels (a decompression bomb).
    """
    try:
        return _decode(path, side)
    except Exception as error:  # Pillow's readers raise a dozen kinds for broken files
        raise KitError(f"{path} cannot be read as an image ({_reason(error)}): replace the file.") from error


def _decode(path: str, side: int | None) -> Image.Image:
    # Pass an open file: Pillow memory-maps a TIFF opened by name, and shears it if it is stored rotated.
    with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
        if side:
            image.draft("RGB", (side, side))  # a square: independent of the rotation that follows
        return to_rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 0))
    except Exception:  # viewers ignore broken EXIF
        turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """Return greyscale of more than 8 bits, integer or float, as 8 bits; `file`: the image before rotation.

    A 16-bit PNG has a fixed range. A TIFF can have any: one of RANGES, if the brightest pixel lies in it. Other values,
    such as 12 bits or negative ones, are stretched from the darkest (or 0) to the brightest, as viewers do, so that a
    dim image does not turn black. NaN becomes white, like a missing image.
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
    """Return the image at `path` as `[size, size, 3]`, 0 to 255; white if it is None. Raise KitError if unreadable."""
    if path is None:
        return np.full((size, size, 3), 255, np.uint8)
    image = read_image(path, size)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def thumbnail(path: str, size: int) -> bytes:
    """Return the image as a JPEG of at most `size` pixels per side. Raise KitError if it is unreadable."""
    image = read_image(path, size)
    image.thumbnail((size, size))
    image.save(buffer := io.BytesIO(), "JPEG", quality=85)
    return buffer.getvalue()


def inspect_images(paths: list[str | None]) -> pd.DataFrame:
    """Return `bytes`, `perceptual` and `blank` of each path `[N]`.

    `bytes` is a hash of the file's contents, `perceptual` ImageHash's phash (64 hexadecimal digits). `blank` says why
    there is no readable image: "missing" if the path is None, or "corrupt: …"; both hashes are None then. Otherwise it
    is "". Each file is decoded once; the results are cached by its contents.
    """
    contents = content_hashes(paths, strict=False)
    present = [place for place, value in enumerate(contents) if value and not value.startswith(UNREADABLE)]
    keys = [fingerprint(contents[place], DECODER) for place in present]

    def compute(new: list[int]) -> list[str]:
        return thread_map(
            _inspect_image, [paths[present[i]] for i in new], desc="inspecting images", leave=False, tqdm_class=Bar
        )

    seen = pd.Series(contents, dtype=object)
    seen.iloc[present] = get_or_compute(f"images_{HASH_SIZE}", keys, pa.string(), compute).to_pylist()
    bad = seen.str.startswith(UNREADABLE).astype(bool)
    blank = ("corrupt: " + seen.str[1:]).where(bad, "").mask(seen == "", "missing")
    return pd.DataFrame({"bytes": contents, "perceptual": seen}).where(blank == "", None).assign(blank=blank)


def _inspect_image(path: str) -> str:
    try:  # decode at twice the size that the hash uses
        return str(imagehash.phash(_decode(path, 128), HASH_SIZE))
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk is at fault, not the file: do not cache it
            raise KitError(f"{path} cannot be read ({error.strerror}): try again, or replace the file.") from error
        return f"{UNREADABLE}{_reason(error)}"


def item_images(frame: pd.DataFrame) -> list[tuple[str | None, ...]]:
    """Return the paths of each item's images `[N]`, None for one that is missing: the column `image_paths` of a
    catalogue, otherwise the single `image_path`."""
    if "image_paths" in frame:
        return frame["image_paths"].tolist()
    return [(path if isinstance(path, str) else None,) for path in frame["image_path"]]


def readable_images(frame: pd.DataFrame) -> list[list[str]]:
    """Return the paths of each item's images `[N]`, without those that are missing."""
    return [[path for path in paths if path is not None] for paths in item_images(frame)]


def image_hashes(frame: pd.DataFrame) -> list[str]:
    """Return the hash of each item's image file `[N]`; of several, with a space between them, "" for a missing one.

    Raise KitError if a file cannot be read.
    """
    items = item_images(frame)
    return [" ".join(hashes) for hashes in _of_each(items, content_hashes([path for paths in items for path in paths]))]


def inspect_items(items: list[tuple[str | None, ...]]) -> pd.DataFrame:
    """Return `bytes`, `perceptual`, `blank` and `reasons` of items `[N]`, given the paths of the images of each.

    The hashes are those of `inspect_images`; of several images, with a space between them, "" for an unreadable one.
    They are None, and `blank` says why, if no image of the item is readable. `reasons`: the same per image, a tuple.
    """
    inspected = inspect_images([path for paths in items for path in paths])
    reasons = _of_each(items, inspected["blank"])
    blank = ["" if "" in whys else (*whys, "missing")[0] for whys in reasons]
    columns = {"blank": blank, "reasons": pd.Series(reasons, dtype=object)}
    for name in ("bytes", "perceptual"):
        pairs = zip(_of_each(items, inspected[name].fillna("")), blank, strict=True)
        joined = [None if why else " ".join(hashes) for hashes, why in pairs]
        columns[name] = pd.Series(joined, dtype=inspected[name].dtype)
    return pd.DataFrame(columns)


def _of_each(items: list[tuple[str | None, ...]], values: Iterable[str]) -> list[tuple[str, ...]]:
    """Return per item the values of its images; `values`: of all images, one after the other."""
    rest = iter(values)
    return [tuple(itertools.islice(rest, len(paths))) for paths in items]


def keep_readable(frame: pd.DataFrame, inspected: pd.DataFrame) -> None:
    """Set the paths of images that are not readable to None: those in `image_paths`, and `image_path` to the first that
    is readable. `inspected`: what `inspect_items` returns of the frame's items."""
    kept = [
        tuple(None if why else path for path, why in zip(paths, reasons, strict=True))
        for paths, reasons in zip(item_images(frame), inspected["reasons"], strict=True)
    ]
    frame["image_paths"] = pd.Series(kept, frame.index, dtype=object)
    frame["image_path"] = pd.Series(first_images(kept), frame.index, dtype=object)


def first_images(items: Iterable[tuple[str | None, ...]]) -> list[str | None]:
    """Return the path of each item's first image that is not missing, None if there is none."""
    return [next((path for path in paths if path is not None), None) for paths in items]


def check_images(frames: list[pd.DataFrame], corrupt: str) -> list[pd.DataFrame]:
    """Add the columns `blank` and `left_out` to the frames, set the paths of images that are not readable to None
    (`keep_readable`), and return the result of `inspect_items` per frame.

    `blank`: why an item has no readable image · `left_out`: which images of an item that has others are not readable,
    and why. Raise KitError if too many files are unreadable: `corrupt` "error" allows none, "few" one in a hundred,
    "blank" all.
    """
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    items = [paths for frame in frames for paths in item_images(frame)]
    inspected = inspect_items(items)
    bad = [
        f"{path} ({why.removeprefix('corrupt: ')})"
        for paths, reasons in zip(items, inspected["reasons"], strict=True)
        for path, why in zip(paths, reasons, strict=True)
        if path and why
    ]
    present = sum(path is not None for paths in items for path in paths)
    parts = [inspected.iloc[rows].reset_index(drop=True) for rows in np.split(np.arange(len(inspected)), ends)]
    for frame, part in zip(frames, parts, strict=True):
        frame["blank"] = part["blank"]
        frame["left_out"] = [
            "; ".join(f"image {i} of {len(reasons)}: {why}" for i, why in enumerate(reasons, 1) if why and not blank)
            for reasons, blank in zip(part["reasons"], part["blank"], strict=True)
        ]
        keep_readable(frame, part)
    if len(bad) > {"error": 0, "few": present // 100, "blank": present}[corrupt]:
        raise KitError(
            f"{len(bad)} of the {present} images can't be read: {shorten(bad, 3)}; replace the files, or "
            f"train with white images in their place: -p corrupt blank."
        )
    return parts
