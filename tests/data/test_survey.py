"""What images are like, by their heads."""

import io

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image

from hfgen.core.errors import HfgenError
from hfgen.data.decode import undecoded
from hfgen.data.survey import survey


def encoded(mode="RGB", size=(8, 8), kind="PNG", **options):
    buffer = io.BytesIO()
    PIL.Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def surveyed(*files, **options):
    rows = [{"bytes": data, "path": None} for data in files]
    dataset = Dataset.from_dict({"image": rows}, features=Features({"image": Image()}))
    return survey(undecoded(dataset, "image"), "image", **options)


def exif(orientation):
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_the_first_image_does_not_decide():
    found = surveyed(encoded("L"), *[encoded()] * 5)
    assert (found.channels, found.coloured, found.seen, found.total) == (3, 5, 6, 6)
    assert found.changes(3, 8, "white", center_crop=True) == [
        "1 of 6 images is grey: taken as RGB, as the others or the model are in colour"
    ]
    assert found.changes(1, 8, "white", center_crop=True) == [
        "5 of 6 images are in colour: taken as grey, as the model is"
    ]


def test_images_that_stay_as_they_are_are_not_told_of():
    for mode, channels in (("L", 1), ("RGB", 3)):
        found = surveyed(*[encoded(mode)] * 3)
        assert found.channels == channels
        assert found.changes(channels, 8, "white", center_crop=True) == []


def test_all_that_is_changed_is_told():
    deep = io.BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep, "PNG")
    found = surveyed(
        encoded("RGBA"),
        encoded("L", transparency=0),
        encoded("CMYK", kind="JPEG"),
        encoded("P", (30, 20)),
        deep.getvalue(),
        encoded("RGB", (4, 6), "JPEG", exif=exif(6)),
        encoded("1"),
    )
    assert found.changes(3, 8, "#00ff00", center_crop=False) == [
        "3 of 7 images are grey: taken as RGB, as the others or the model are in colour",
        "1 of 7 images is in black and white: taken as RGB of 8 bits",
        "1 of 7 images is CMYK: taken as RGB of 8 bits",
        "1 of 7 images is of 16 bits a channel: taken as RGB of 8 bits",
        "1 of 7 images is with a palette: taken as RGB of 8 bits",
        "2 of 7 images are transparent in parts: composited on #00ff00, --background names another colour",
        "1 of 7 images is turned upright, as the EXIF tag says",
        "2 of 7 images are of 6x4 to 30x20: the shorter side is made 8, which enlarges 1, and a square cut at a place drawn for each",
    ]


def test_the_median_of_the_shorter_sides():
    assert surveyed(*(encoded(size=(40, side)) for side in (8, 8, 30))).side == 8
    assert surveyed(*(encoded(size=(40, side)) for side in (30, 8, 20, 9))).side == 9


def test_of_many_images_some_are_looked_at():
    files = [encoded("L")] * 40 + [encoded("RGBA")] * 10
    found = surveyed(*files, most=25)
    assert (found.seen, found.total) == (25, 50)
    assert found.changes(1, 8, "white", center_crop=True)[0].startswith(f"{found.coloured} of 25 images looked at ")
    both = found + surveyed(encoded("L"))
    assert (both.seen, both.total) == (26, 51)


def test_what_cannot_be_read_is_left_to_the_decoder():
    found = surveyed(b"no image", encoded("L"))
    assert (found.seen, found.total, found.channels) == (1, 2, 1)
    with pytest.raises(HfgenError, match="row 0 of image column 'image' is unreadable"):
        surveyed(b"no image", b"nor this")
