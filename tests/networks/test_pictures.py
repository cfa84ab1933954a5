"""Opening pictures, against arrays that are known without the code under test."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.networks.pictures import open_picture

RAMP = np.arange(256, dtype=np.uint8)[None]  # (1, 256): every grey once


class AsStored(type(Path())):
    """A path that says how it is opened."""

    upright = False


def rgb(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def png(path: Path, width: int, height: int, depth: int, colour_type: int, rows: bytes = b"") -> Path:
    """A PNG written by hand: Pillow writes no 16-bit RGB, and a bomb's header must not cost its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


# --- what a picture looks like -----------------------------------------------------------------------------


def test_greyscale_modes(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "l.png")
    assert np.array_equal(rgb(open_picture(tmp_path / "l.png")), grey(RAMP))
    Image.fromarray(RAMP > 99).save(tmp_path / "1.png")
    assert np.array_equal(rgb(open_picture(tmp_path / "1.png")), grey(np.uint8(255) * (RAMP > 99)))


@pytest.mark.parametrize("channels, colour_type", [(1, 0), (3, 2)])
def test_sixteen_bit_png(tmp_path, channels, colour_type):
    ramp = np.repeat((RAMP[0].astype(">u2") * 257)[:, None], channels, axis=1)  # 0..65535
    path = png(tmp_path / "16.png", 256, 1, 16, colour_type, b"\0" + ramp.astype(">u2").tobytes())
    assert np.array_equal(rgb(open_picture(path)), grey(RAMP))


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.uint16) * 257,
        RAMP.astype(np.int32) * 257,
        RAMP / np.float32(255),
        RAMP.astype(np.float32),
    ],
    ids=["I;16", "I", "F to 1", "F to 255"],
)
def test_deep_greyscale_tiff(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    assert np.array_equal(rgb(open_picture(tmp_path / "deep.tif")), grey(RAMP))


def test_big_endian_sixteen_bit():
    data = (RAMP.astype(">u2") * 257).astype(">u2").tobytes()
    assert np.array_equal(rgb(open_picture(Image.frombytes("I;16B", (256, 1), data))), grey(RAMP))


def test_floats_that_are_no_number_are_black():
    values = np.array([[np.nan, -np.inf, np.inf, -0.01, 0.2, 1]], dtype=np.float32)
    assert rgb(open_picture(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 0, 0, 51, 255]
    assert not rgb(open_picture(Image.new("F", (2, 2)))).any()
    with pytest.raises(InputError, match="values begin at 0, for black"):
        open_picture(Image.fromarray(values * 2 - 1))


def test_cmyk(tmp_path):
    inks = [[(0, 0, 0, 0), (0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 255)]]
    Image.fromarray(np.array(inks, dtype=np.uint8), "CMYK").save(tmp_path / "cmyk.tif")
    expected = [[(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 0)]]
    assert rgb(open_picture(tmp_path / "cmyk.tif")).tolist() == np.array(expected).tolist()


def test_alpha_is_over_white(tmp_path):
    colours = np.array([[(0, 100, 200, 0), (0, 100, 200, 51), (0, 100, 200, 255)]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgba.png")
    # white + 51/255 of the way to the colour
    assert rgb(open_picture(tmp_path / "rgba.png")).tolist() == [[[255] * 3, [204, 224, 244], [0, 100, 200]]]
    Image.fromarray(np.array([[(0, 0), (0, 51), (9, 255)]], dtype=np.uint8), "LA").save(tmp_path / "la.png")
    assert rgb(open_picture(tmp_path / "la.png"))[0, :, 0].tolist() == [255, 204, 9]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette(tmp_path, suffix):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    image.save(tmp_path / f"opaque.{suffix}")
    image.save(tmp_path / f"clear.{suffix}", transparency=1)
    assert rgb(open_picture(tmp_path / f"opaque.{suffix}")).tolist() == [[[10, 20, 30], [200, 0, 0], [0, 0, 200]]]
    assert rgb(open_picture(tmp_path / f"clear.{suffix}")).tolist() == [[[10, 20, 30], [255] * 3, [0, 0, 200]]]


def test_exif_orientation(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(rgb(open_picture(tmp_path / "a.png")), np.rot90(stored, -1))
    assert np.array_equal(rgb(open_picture(AsStored(tmp_path / "a.png"))), stored)
    assert np.array_equal(rgb(open_picture(open_picture(AsStored(tmp_path / "a.png")))), stored)
    with Image.open(tmp_path / "a.png") as given:
        open_picture(given)
        assert given.getexif()[0x0112] == 6  # the caller's own keeps it


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    red.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[blue], **options)
    assert np.array_equal(rgb(open_picture(tmp_path / f"a.{suffix}")), np.asarray(red))


def test_a_given_image_stays_as_it_is():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    opened = open_picture(image)
    assert image.mode == "RGBA" and not np.asarray(image).any() and (rgb(opened) == 255).all()
    image = Image.new("RGB", (4, 4))
    open_picture(image).putpixel((0, 0), (1, 1, 1))
    assert image.getpixel((0, 0)) == (0, 0, 0)


# --- what is refused ---------------------------------------------------------------------------------------


def write_truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name, write, message",
    [
        ("missing.png", lambda path: None, "does not exist"),
        ("folder.png", lambda path: path.mkdir(), "is a folder"),
        ("empty.png", lambda path: path.touch(), "is an empty file"),
        ("text.png", lambda path: path.write_text("no picture " * 99), "not a picture"),
        ("cut.png", write_truncated, "cannot be decoded"),
        ("cut.jpg", write_truncated, "cannot be decoded"),
        ("bomb.png", lambda path: png(path, 20_000, 20_000, 8, 2), "more than 100,000,000 pixels"),
        ("large.png", lambda path: png(path, 10_001, 10_000, 8, 2), "more than 100,000,000 pixels"),
    ],
)
@pytest.mark.parametrize("pillows_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_bad_files(tmp_path, monkeypatch, name, write, message, pillows_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as error:
        open_picture(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)
    assert pillows_limit == Image.MAX_IMAGE_PIXELS


def test_no_pixels():
    with pytest.raises(InputError, match="no pixels"):
        open_picture(Image.new("RGB", (0, 5)))


def test_pillow_does_not_warn_of_sizes_below_our_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    Image.fromarray(RAMP).save(tmp_path / "a.png")  # 256 pixels: Pillow warns above 200 and refuses above 400
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_picture(tmp_path / "a.png")
    assert not caught
