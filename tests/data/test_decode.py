"""Decoding against Pillow called directly, and against datasets' own decoder."""

import io
import os
import socket
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image

from hfgen.core.errors import HfgenError
from hfgen.data.decode import WHITE, ImageReader, channels_of, colour, open_image, raster_formats, undecoded

FEATURES = Features({"image": Image()})


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dataset_of(*files):
    return Dataset.from_dict({"image": [{"bytes": data, "path": None} for data in files]}, features=FEATURES)


def reader(*files, channels=1, resolution=8, center_crop=True, seed=0, background=WHITE):
    return ImageReader(
        dataset=undecoded(dataset_of(*files), "image"),
        column="image",
        channels=channels,
        resolution=resolution,
        center_crop=center_crop,
        seed=seed,
        background=background,
    )


def random_image(width, height, mode="RGB", seed=0):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def columns_image(width, height):
    """Each pixel's value is its column."""
    return PIL.Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (height, 1)))


def rows_image(width, height):
    return columns_image(height, width).transpose(PIL.Image.Transpose.TRANSPOSE)


def test_an_image_of_the_right_size_is_untouched():
    grey, colour = random_image(8, 8, "L"), random_image(8, 8)
    array = reader(encoded(grey))(0)
    assert array.dtype == np.uint8
    assert np.array_equal(array, np.asarray(grey)[None])
    assert np.array_equal(reader(encoded(colour), channels=3)(0), np.asarray(colour).transpose(2, 0, 1))


def test_grey_is_repeated_in_three_channels():
    grey = random_image(8, 8, "L")
    assert np.array_equal(reader(encoded(grey), channels=3)(0), np.stack([np.asarray(grey)] * 3))


def test_colour_becomes_luma():
    colour = random_image(8, 8)
    luma = np.asarray(colour) @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    # rounded to an integer, with coefficients in 16-bit fixed point
    assert np.abs(reader(encoded(colour))(0)[0] - luma).max() < 0.51


def test_palette_and_transparency():
    colours = PIL.Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8))
    palette = reader(encoded(colours.convert("P", palette=PIL.Image.Palette.ADAPTIVE)), channels=3)(0)
    assert (palette[:, 0, 0] == [255, 0, 0]).all()
    assert reader(encoded(random_image(8, 8).convert("RGBA")), channels=3)(0).shape == (3, 8, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_show_the_background(channels):
    """Porter and Duff's "over" on an opaque ground, by hand; the hidden colours of clear pixels must not come through."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    image = PIL.Image.fromarray(pixels)
    for ground in ((255, 255, 255), (10, 200, 90)):
        found = reader(encoded(image), channels=channels, background=ground)(0)
        alpha = pixels[..., 3:] / 255
        over = pixels[..., :3] * alpha + np.array(ground) * (1 - alpha)
        if channels == 1:
            over = over @ np.array([[0.299], [0.587], [0.114]])
        # two roundings, of the composite and of the luma
        assert np.abs(found.transpose(1, 2, 0) - over).max() <= 1 + 1e-9
        assert np.array_equal(found[:, 0], reader(encoded(ground_image(ground)), channels=channels)(0)[:, 0])


def ground_image(colour):
    return PIL.Image.new("RGB", (8, 8), colour)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_images_are_as_without_their_alpha(mode):
    plain = random_image(8, 8, mode[:-1])
    opaque = plain.copy()
    opaque.putalpha(255)
    channels = len(mode) - 1
    assert np.array_equal(reader(encoded(opaque), channels=channels)(0), reader(encoded(plain), channels=channels)(0))


def test_a_colour_that_stands_for_none():
    """PNG's tRNS of grey, of colour, of a palette and of 16 bits; GIF's transparent index."""
    grey = PIL.Image.fromarray(np.array([[0, 90], [90, 200]], np.uint8))
    colour = PIL.Image.merge("RGB", [grey] * 3)
    palette = grey.copy()
    palette = palette.convert("P")
    deep = PIL.Image.fromarray(np.array([[0, 90], [90, 200]], np.uint16) * 257)
    files = [
        encoded(grey, transparency=90),
        encoded(colour, transparency=(90, 90, 90)),
        encoded(palette, transparency=90),
        encoded(palette, "GIF", transparency=90),
        encoded(deep, transparency=90 * 257),
    ]
    for file in files:
        assert reader(file, resolution=2)(0)[0].tolist() == [[0, 255], [255, 200]]
        assert reader(file, channels=3, resolution=2, background=(1, 2, 3))(0)[:, 0, 1].tolist() == [1, 2, 3]


def test_inks_become_colours():
    """Of cyan, magenta, yellow and black none is white, and all of magenta and yellow is red; JPEG keeps plain areas."""
    for inks, expected in (((0, 0, 0, 0), 255), ((0, 255, 255, 0), [255, 0, 0]), ((0, 0, 0, 255), 0)):
        file = encoded(PIL.Image.new("CMYK", (8, 8), inks), "JPEG", quality=95)
        assert np.abs(reader(file, channels=3)(0)[:, 4, 4].astype(int) - expected).max() <= 2


def test_modes_of_no_kind_are_refused():
    with pytest.raises(HfgenError, match=r"row 0 of .* is of mode LAB, not of grey or RGB: convert the images"):
        reader(encoded(PIL.Image.new("LAB", (8, 8)), "TIFF"))(0)


@pytest.mark.parametrize(("text", "expected"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
def test_colours_by_name(text, expected):
    assert colour(text) == expected
    with pytest.raises(HfgenError, match="background='transparentish' is no colour"):
        colour("transparentish")


def test_sixteen_bits_are_scaled_to_eight():
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040  # 0..65520
    array = reader(encoded(PIL.Image.fromarray(deep)))(0)[0]
    # 65535 becomes 255; what is between is rounded down
    assert np.array_equal(array, deep // 257)


def test_pixels_of_unknown_range_are_refused():
    floats = encoded(PIL.Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF")
    with pytest.raises(HfgenError, match=r"row 1 of image column 'image' has 32-bit pixels .*: convert the images"):
        reader(encoded(random_image(8, 8)), floats)(1)


@pytest.mark.parametrize(("width", "height", "resized"), [(40, 20, (20, 10)), (21, 35, (10, 17)), (5, 9, (10, 18))])
def test_the_shorter_side_is_resized(width, height, resized):
    image = random_image(width, height, "L")
    expected = image.resize(resized, PIL.Image.Resampling.BILINEAR)
    left, top = (resized[0] - 10) // 2, (resized[1] - 10) // 2
    expected = expected.crop((left, top, left + 10, top + 10))
    assert np.array_equal(reader(encoded(image), resolution=10)(0)[0], np.asarray(expected))


def test_reducing_averages_the_pixels():
    image = PIL.Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)  # a fine chessboard
    # its mean is 127.5 everywhere; a resize that skips pixels would keep 0 and 255
    assert np.abs(reader(encoded(image))(0).astype(float) - 127.5).max() < 2


def test_centre_crop():
    assert (reader(encoded(columns_image(13, 8)))(0)[0] == np.arange(2, 10)).all()
    assert (reader(encoded(rows_image(8, 13)))(0)[0] == np.arange(2, 10)[:, None]).all()


@pytest.mark.parametrize("make", [columns_image, rows_image])
def test_random_crop_lies_inside_and_reaches_every_place(make):
    size = (12, 8) if make is columns_image else (8, 12)
    crops = reader(*[encoded(make(*size))] * 60, center_crop=False)
    firsts = []
    for row in range(60):
        array = crops(row)[0] if make is columns_image else crops(row)[0].T
        firsts.append(int(array[0, 0]))
        assert (array == np.arange(firsts[-1], firsts[-1] + 8)).all()  # eight neighbours, every row alike
    assert set(firsts) == {0, 1, 2, 3, 4}


def test_random_crop_is_a_function_of_seed_and_row():
    files = [encoded(columns_image(200, 8))] * 20

    def crops(seed):
        return [int(reader(*files, center_crop=False, seed=seed)(row)[0, 0, 0]) for row in range(20)]

    assert crops(0) == crops(0)
    assert crops(0) != crops(1)
    assert len(set(crops(0))) > 10  # of 193 places


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_as_datasets_decodes_them(orientation):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    dataset = dataset_of(encoded(random_image(12, 8), exif=exif))
    ours = open_image(undecoded(dataset, "image")[0]["image"], "0")
    assert ours.size == ((12, 8) if orientation < 5 else (8, 12))
    assert np.array_equal(np.asarray(ours), np.asarray(dataset[0]["image"]))


def test_images_are_read_from_paths(tmp_path):
    image = random_image(8, 8, "L")
    image.save(tmp_path / "a.png")
    dataset = undecoded(Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=FEATURES), "image")
    assert np.array_equal(np.asarray(open_image(dataset[0]["image"], "0")), np.asarray(image))


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"no image", lambda data: data[: len(data) // 2], lambda data: b""],
    ids=["text", "cut", "empty"],
)
def test_an_unreadable_image_names_its_row(damage):
    good = encoded(random_image(64, 64))
    broken = reader(good, good, damage(good), channels=3)
    assert broken(1).shape == (3, 8, 8)
    with pytest.raises(
        HfgenError, match=r"row 2 of image column 'image' is unreadable \(.+\): mend or remove"
    ) as error:
        broken(2)
    assert "\n" not in str(error.value)


def test_a_missing_image_names_its_row():
    dataset = undecoded(Dataset.from_dict({"image": [None]}, features=FEATURES), "image")
    with pytest.raises(HfgenError, match="row 0 is unreadable"):
        open_image(dataset[0]["image"], "0")


def test_a_bad_row_has_the_number_that_it_has_in_its_source():
    good = encoded(random_image(8, 8))
    source = Dataset.from_dict({"image": [good] * 7 + [b"no image"] + [good] * 12}, features=FEATURES)
    parts = undecoded(source, "image").train_test_split(5, seed=1)
    for part in parts.values():
        broken = ImageReader(dataset=part, column="image", channels=3, resolution=8, center_crop=True, seed=0)
        for row, value in broken.rows(range(len(part))):
            if value["bytes"] == b"no image":
                with pytest.raises(HfgenError, match="row 7 "):
                    broken.decode(row, value)
                return
    pytest.fail("the bad row is in neither part")


def test_channels_of_an_image():
    modes = ("1", "L", "LA", "I;16", "I;16B", "RGB", "RGBA", "P", "CMYK")
    assert [channels_of(mode) for mode in modes] == [1, 1, 1, 1, 1, 3, 3, 3, 3]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"


def test_formats_of_pixels_alone_are_opened(monkeypatch):
    """EPS has Pillow start Ghostscript; here the reader itself must not be reached."""
    PIL.Image.init()
    monkeypatch.setitem(PIL.Image.OPEN, "EPS", (lambda *_: pytest.fail("an EPS was opened"), lambda prefix: True))
    with pytest.raises(HfgenError, match=r"^row 0 of .* is unreadable \(it is in none of the formats of pictures"):
        reader(EPS)(0)
    assert not {"EPS", "WMF", "PDF", "GRIB", "HDF5", "BUFR", "FITS"} & set(raster_formats())
    image = random_image(8, 8)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA"):
        assert reader(encoded(image, kind), channels=3)(0).shape == (3, 8, 8)


def test_a_path_that_is_no_file_is_not_waited_for(tmp_path):
    pipe, server = tmp_path / "pipe", socket.socket(socket.AF_UNIX)
    os.mkfifo(pipe)
    server.bind(str(tmp_path / "socket"))
    for path in (pipe, tmp_path / "socket", tmp_path, Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(HfgenError, match="is no regular file"):
            open_image({"bytes": None, "path": str(path)}, "0")
    server.close()
    image, link = tmp_path / "image.png", tmp_path / "link.png"
    image.write_bytes(encoded(random_image(8, 8)))
    link.symlink_to(image)
    assert open_image({"bytes": None, "path": str(link)}, "0").size == (8, 8)


@pytest.mark.parametrize("side", [10_000, 20_000])  # a warning of Pillow's, and an error
def test_an_image_of_too_many_pixels_is_refused_without_a_warning(side, recwarn):
    file = encoded(PIL.Image.new("1", (side, side)))
    with pytest.raises(HfgenError, match=r"^row 0 of .* is unreadable \(.*pixels"):
        reader(file)(0)
    assert len(file) < 100_000


@pytest.mark.parametrize("value", [None, {}, {"bytes": None, "path": None}])
def test_a_row_without_an_image(value):
    with pytest.raises(HfgenError, match=r"^row 7 is unreadable \(there is no image\)"):
        open_image(value, "7")
