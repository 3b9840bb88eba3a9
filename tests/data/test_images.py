"""Images of every mode and orientation are read as a person sees them, and caches notice when that changes."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from kit.data import images
from kit.data.images import inspect_images, read_image, read_pixels, thumbnail, to_rgb

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))  # darkest on the left
WHITE = (255, 255, 255)


def scene(width: int, height: int) -> Image.Image:
    """Random patches, unlike themselves however they are turned."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def stored(path: Path, image: Image.Image, orientation: int) -> str:
    """Save the image as a camera does: turned, with a tag that tells viewers to turn it back."""
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = back.get(orientation, images.TURNS.get(orientation))  # the others undo themselves
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if path.suffix in (".jpg", ".webp") else {}
    (image if turn is None else image.transpose(turn)).save(path, exif=exif, **options)
    return str(path)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(orientation, kind, tmp_path, root):
    upright = scene(600, 400)
    path = stored(tmp_path / f"photo.{kind}", upright, orientation)
    wanted = np.asarray(upright.resize((64, 64), Image.Resampling.BICUBIC), float)
    assert np.abs(read_pixels(path, 64) - wanted).mean() < 12  # 60 if it is turned another way
    small = Image.open(io.BytesIO(thumbnail(path, 60)))
    assert small.size == (60, 40)
    assert np.abs(np.asarray(small, float) - np.asarray(upright.resize((60, 40)), float)).mean() < 40
    upright.save(tmp_path / "plain.png")
    tagged, plain = (int(look, 16) for look in inspect_images([path, str(tmp_path / "plain.png")])["perceptual"])
    assert (tagged ^ plain).bit_count() <= 4


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0garbage", b"\xff" * 40], ids=["cut", "garbage", "ones"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_turns_nothing(exif, kind, tmp_path):
    for name, options in {"broken": {"exif": exif}, "none": {}}.items():
        scene(60, 40).save(tmp_path / name, kind, **options)
    broken, none = (np.asarray(read_image(str(tmp_path / name))) for name in ("broken", "none"))
    assert np.array_equal(broken, none)


GREYS = {
    "float from 0 to 1": RAMP.astype(np.float32),
    "float to a little beyond 1": (1.03 * RAMP).astype(np.float32),
    "float from 0 to 255": (255 * RAMP).astype(np.float32),
    "float to a little beyond 255": (260 * RAMP).astype(np.float32),
    "float from 0 to 65535": (65535 * RAMP).astype(np.float32),
    "float of tiny numbers": (1e-6 * RAMP).astype(np.float32),
    "float with negative numbers": (RAMP - 0.5).astype(np.float32),
    "float of large numbers": (1e9 * RAMP).astype(np.float32),
    "integers from 0 to 255": (255 * RAMP).astype(np.int32),
    "12 bits": (4095 * RAMP).astype(np.int32),
    "integers from 0 to 65535": (65535 * RAMP).astype(np.int32),
    "integers of 31 bits": ((2**31 - 1) * RAMP).astype(np.int32),
    "negative integers": (1000 * RAMP - 500).astype(np.int32),
    "10 bits in 16": (1023 * RAMP).astype(np.uint16),
    "16 bits": (65535 * RAMP).astype(np.uint16),
    "16 bits, the other end first": (65535 * RAMP).astype(">u2"),
}


@pytest.mark.parametrize("name", GREYS)
def test_grey_of_many_bits_is_grey(name, tmp_path):
    values = GREYS[name]
    image = Image.frombytes("I;16B", RAMP.shape[::-1], values.tobytes()) if values.dtype == ">u2" else None
    image = image or Image.fromarray(values)
    assert image.mode in ("F", "I", "I;16", "I;16B")
    image.save(tmp_path / "grey.tif", **({"tiffinfo": {339: 2}} if image.mode == "I" else {}))
    for seen in (to_rgb(image), read_image(str(tmp_path / "grey.tif"))):
        assert seen.mode == "RGB"
        assert np.abs(np.asarray(seen, float) - 255 * RAMP[..., None]).max() <= 2


@pytest.mark.parametrize("values", [(65535 * RAMP).astype(np.uint16), (255 * RAMP + 0.5).astype(np.uint8)])
def test_a_turned_photo_of_one_grey(values, tmp_path):
    for kind in ("png", "tif"):
        path = stored(tmp_path / f"a.{kind}", Image.fromarray(values), 6)
        seen = np.asarray(read_image(path), float)
        assert np.abs(seen - 255 * RAMP[..., None]).max() <= 1


def test_unsigned_integers_of_32_bits(tmp_path):
    """Pillow writes and reads them as signed."""
    values = (RAMP * (2**32 - 1)).astype(np.uint32)
    Image.fromarray(values.view(np.int32)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    tag = struct.pack("<HHIH", 339, 3, 1, 2)  # sample format: signed
    assert content.count(tag) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(tag, struct.pack("<HHIH", 339, 3, 1, 1)))
    assert np.abs(np.asarray(read_image(str(tmp_path / "a.tif")), float) - 255 * RAMP[..., None]).max() <= 1


@pytest.mark.parametrize("value", [0, 40, 128, 255])
def test_an_even_grey_keeps_its_shade(value):
    assert to_rgb(Image.new("I", (4, 4), value)).getpixel((1, 1)) == (value,) * 3
    assert to_rgb(Image.new("F", (4, 4), value / 255)).getpixel((1, 1)) == (value,) * 3


def test_the_16_bits_of_a_png_are_never_stretched(tmp_path):
    Image.fromarray(np.full((30, 40), 0x1000, np.uint16)).save(tmp_path / "dark.png")
    assert read_image(str(tmp_path / "dark.png")).getpixel((5, 5)) == (16, 16, 16)


def test_white_is_zero_and_what_is_not_there_is_white(tmp_path):
    for values in ((65535 * RAMP).astype(np.uint16), RAMP.astype(np.float32)):
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
        seen = np.asarray(read_image(str(tmp_path / "a.tif")), float)
        assert np.abs(seen - 255 * (1 - RAMP[..., None])).max() <= 2
    gaps = RAMP.astype(np.float32)
    gaps[0, 0], gaps[0, 1], gaps[0, 2] = np.nan, np.inf, -np.inf
    seen = to_rgb(Image.fromarray(gaps))
    assert [seen.getpixel((x, 0))[0] for x in range(3)] == [255, 255, 0]
    assert np.abs(np.asarray(seen, float)[1:] - 255 * RAMP[1:, :, None]).max() <= 1


def png(bits: int, colour: int, rows: bytes, transparent: bytes, side: int = 8) -> bytes:
    """A PNG of `side` × `side`, all its rows alike, with this tRNS chunk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + rows) * side)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", transparent) + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )  # fmt: skip


TRANSPARENT = {  # half of each row transparent: the file → the colours of the left and the right half
    "1 bit of grey": (png(1, 0, b"\x0f", b"\0\0"), WHITE, WHITE),
    "2 bits of grey": (png(2, 0, b"\x55\xaa", b"\0\1"), WHITE, (170,) * 3),
    "4 bits of grey": (png(4, 0, b"\x33\x33\x66\x66", b"\0\3"), WHITE, (102,) * 3),
    "8 bits of grey": (png(8, 0, b"\x33" * 4 + b"\x66" * 4, b"\0\x33"), WHITE, (102,) * 3),
    "16 bits of grey": (png(16, 0, b"\x33\x01" * 4 + b"\x33\x02" * 4, b"\x33\x01"), WHITE, (51,) * 3),
    "8 bits of colour": (png(8, 2, b"\1\2\3" * 4 + b"\4\5\6" * 4, b"\0\1\0\2\0\3"), WHITE, (4, 5, 6)),
    "16 bits of colour": (
        png(16, 2, b"\1\0\2\0\3\0" * 4 + b"\4\0\5\0\6\0" * 4, b"\1\0\2\0\3\0"), WHITE, (4, 5, 6)
    ),
    "16 bits of grey with alpha": (
        png(16, 4, b"\x33\0\0\0" * 4 + b"\x66\0\xff\xff" * 4, b""), WHITE, (102,) * 3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSPARENT)
def test_the_transparent_colour_of_a_png_is_white(name, tmp_path):
    content, left, right = TRANSPARENT[name]
    content = content.replace(png(1, 0, b"", b"")[33:45], b"") if name.endswith("alpha") else content
    (tmp_path / "a.png").write_bytes(content)
    seen = read_image(str(tmp_path / "a.png"))
    assert (seen.getpixel((1, 4)), seen.getpixel((6, 4))) == (left, right)


def lab(colour: tuple) -> Image.Image:
    rgb = ImageCms.createProfile("sRGB")
    change = ImageCms.buildTransform(rgb, ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(Image.new("RGB", (40, 30), colour), change)


RED = Image.new("RGB", (40, 30), (200, 30, 40))
HALF = Image.new("RGBA", (40, 30), (200, 30, 40, 128))
MODES = {
    **{mode: (RED.convert(mode), (200, 30, 40)) for mode in ("RGB", "RGBX", "CMYK", "YCbCr", "HSV")},
    "P": (RED.quantize(2), (200, 30, 40)),
    "LAB": (lab((200, 30, 40)), (200, 30, 40)),
    "1": (Image.new("1", (40, 30), 1), WHITE),
    "RGBA": (HALF, (227, 142, 147)),
    "RGBa": (HALF.convert("RGBa"), (227, 142, 147)),
    "PA": (Image.new("P", (40, 30), 0).convert("PA"), (0, 0, 0)),
    "LA": (Image.new("LA", (40, 30), (100, 128)), (177,) * 3),
    "La": (Image.new("LA", (40, 30), (100, 128)).convert("La"), (177,) * 3),
}
IN_TIFF = {"RGB", "CMYK", "YCbCr", "LAB", "1", "P", "RGBA", "RGBX", "PA", "LA"}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_on_white(mode, tmp_path):
    image, wanted = MODES[mode]
    assert image.mode == mode
    seen = [to_rgb(image.copy())]
    if mode in IN_TIFF:
        image.save(tmp_path / "a.tif")
        seen.append(read_image(str(tmp_path / "a.tif")))
    for result in seen:
        assert result.mode == "RGB"
        assert np.abs(np.array(result.getpixel((20, 15))) - wanted).max() <= 6


def test_ink_of_a_jpeg(tmp_path):
    """Adobe stores a JPEG's ink inverted, and marks it."""
    RED.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert np.abs(np.array(read_image(str(tmp_path / "a.jpg"), 16).getpixel((2, 2))) - (200, 30, 40)).max() < 12


def test_what_was_seen_is_forgotten_when_decoding_changes(root, tmp_path, monkeypatch):
    scene(60, 40).save(tmp_path / "a.png")
    looked, look = [], images._inspect_image
    monkeypatch.setattr(images, "_inspect_image", lambda path: looked.append(path) or look(path))
    for decoder, times in ((images.DECODER, 1), (images.DECODER, 1), ("another", 2)):
        monkeypatch.setattr(images, "DECODER", decoder)
        inspect_images([str(tmp_path / "a.png")])
        assert len(looked) == times


def test_viewers_agree_about_orientation(tmp_path):
    """Ours and Pillow's own turn alike."""
    for orientation in range(1, 9):
        path = stored(tmp_path / "a.png", scene(60, 40), orientation)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(read_image(path)))
