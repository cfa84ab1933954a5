"""Pictures and photographs, against arrays and boxes that are known without the code under test."""

import importlib.metadata
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.photographs import Photograph, load_photographs, open_picture

RAMP = np.arange(256, dtype=np.uint8)[None]  # (1, 256): every grey once


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
    values = np.array([[np.nan, -np.inf, np.inf, -3, 0.2, 1]], dtype=np.float32)
    assert rgb(open_picture(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 0, 0, 51, 255]
    assert not rgb(open_picture(Image.new("F", (2, 2)))).any()


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


def turned_picture(path: Path) -> np.ndarray:
    """Saves an array with EXIF orientation 6 ("turn clockwise to view") and returns the array as stored."""
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(path, exif=exif)
    return stored


def test_exif_orientation(tmp_path):
    stored = turned_picture(tmp_path / "a.png")
    assert np.array_equal(rgb(open_picture(tmp_path / "a.png")), np.rot90(stored, -1))
    boxed = Photograph("a", tmp_path / "a.png", 0, ((0, 0, 5, 3),), (6, 4))
    assert np.array_equal(rgb(boxed.open()), stored)  # boxes refer to the stored pixels
    assert np.array_equal(rgb(open_picture(boxed.open())), stored)  # and to no other when it is opened again
    with Image.open(tmp_path / "a.png") as given:
        open_picture(given)
        assert given.getexif()[0x0112] == 6  # the caller's own keeps it
    assert np.array_equal(rgb(Photograph("a", tmp_path / "a.png").open()), np.rot90(stored, -1))


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


# --- boxes -------------------------------------------------------------------------------------------------


def test_scaled_boxes_by_hand():
    photograph = Photograph("a", Path("a.png"), 0, ((10, 5, 19, 9), (10, 5, 12, 6)), (100, 50))
    # x doubles: columns 10..19 become 20..39; y halves: the edges of rows 5..9, 5 and 10, become 2.5 and 5
    assert photograph.scaled_boxes(25, 200) == [(20, 2.5, 39, 4), (20, 2.5, 25, 2.5)]
    expected = np.zeros((25, 200), dtype=bool)
    expected[2:5, 20:40] = True  # the centre of row 2 is at 2.5, on the edge; the second box lies inside the first
    assert np.array_equal(photograph.box_mask(25, 200), expected)


@pytest.mark.parametrize("height, width", [(224, 224), (7, 13), (683, 1024), (1000, 3)])
def test_a_full_box_stays_full(height, width):
    photograph = Photograph("a", Path("a.png"), 0, ((0, 0, 1023, 682),), (1024, 683))
    assert np.allclose(photograph.scaled_boxes(height, width), [(0, 0, width - 1, height - 1)])
    assert photograph.box_mask(height, width).all()


def test_without_boxes():
    photograph = Photograph("a", Path("a.png"))
    assert photograph.scaled_boxes(8, 8) == [] and not photograph.box_mask(8, 9).any()
    assert photograph.box_mask(8, 9).shape == (8, 9)
    with pytest.raises(InputError, match="no size"):
        Photograph("a", Path("a.png"), 0, ((0, 0, 1, 1),))


# --- the embedded photographs ------------------------------------------------------------------------------


def test_embedded(monkeypatch):
    monkeypatch.delitem(sys.modules, "foolbox", raising=False)
    photographs = load_photographs()
    assert "foolbox" not in sys.modules  # its import is slow
    classes = [
        243,
        559,
        438,
        990,
        949,
        853,
        609,
        609,
        915,
        455,
        541,
        630,
        741,
        471,
        129,
        99,
        251,
        22,
        317,
        305,
    ]
    assert [photograph.target for photograph in photographs] == classes
    assert [photograph.name for photograph in photographs] == [f"imagenet_{i:02d}" for i in range(20)]
    for photograph in photographs:
        assert photograph.open().size == photograph.size
        assert photograph.boxes
        for left, top, right, bottom in photograph.boxes:
            assert 0 <= left < right < photograph.size[0] and 0 <= top < bottom < photograph.size[1]
    assert len(photographs[4].boxes) == 9  # strawberries
    eagle = photographs[17]  # (0, 122, 511, 364) of 512 x 512
    assert eagle.box_mask(512, 512).sum() == 512 * 243
    assert eagle.box_mask(224, 224).mean() == pytest.approx(243 / 512, abs=1 / 224)
    assert load_photographs(limit=3) == photographs[:3]


def test_without_foolbox(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("perceptual_lib.photographs.photographs.distribution", absent)
    with pytest.raises(InputError, match="pip install foolbox"):
        load_photographs()


# --- the user's photographs --------------------------------------------------------------------------------


def test_files_and_folders(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "sub").mkdir()
    assert load_photographs(tmp_path) == [
        Photograph("a", tmp_path / "a.JPG"),
        Photograph("b", tmp_path / "b.png"),
    ]
    assert [photograph.name for photograph in load_photographs(str(tmp_path), limit=1)] == ["a"]
    assert load_photographs(tmp_path / "b.png") == [Photograph("b", tmp_path / "b.png")]
    known = Photograph("known", tmp_path / "a.JPG", 7)
    assert load_photographs(iter([tmp_path / "b.png", known])) == [Photograph("b", tmp_path / "b.png"), known]
    with pytest.raises(InputError, match=r"c\.png is not an existing file"):
        load_photographs(tmp_path / "c.png")
    with pytest.raises(InputError, match="has no pictures"):
        load_photographs(tmp_path / "sub")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_must_be_positive(limit):
    with pytest.raises(InputError, match=f"limit is {limit}"):
        load_photographs(limit=limit)
