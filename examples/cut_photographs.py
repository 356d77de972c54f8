"""Cut scikit-learn's two photographs into small squares, a folder for each class: `python examples/cut_photographs.py photographs`.

The photographs are first cut into blocks; some of these are the split "test", so that none of its pixels is in a training image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
from sklearn.datasets import load_sample_image

CLASSES = ("china", "flower")
BLOCK = 64
EACH_FOURTH = 4


def photograph(name: str) -> PIL.Image.Image:
    """One of scikit-learn's photographs, 640x427, at half that size."""
    return PIL.Image.fromarray(load_sample_image(f"{name}.jpg")).reduce(2)


def squares(picture: PIL.Image.Image, side: int, stride: int) -> Iterator[PIL.Image.Image]:
    """All squares of that side whose corners lie on a grid, row by row."""
    for top in range(0, picture.height - side + 1, stride):
        for left in range(0, picture.width - side + 1, stride):
            yield picture.crop((left, top, left + side, top + side))


def cut(folder: Path, side: int, stride: int) -> int:
    """Fill a new folder with SPLIT/CLASS/NUMBER.png; returns the number of images."""
    count = 0
    for name in CLASSES:
        for block, part in enumerate(squares(photograph(name), BLOCK, BLOCK)):
            held_out = block % EACH_FOURTH == 1
            place = folder / ("test" if held_out else "train") / name
            place.mkdir(parents=True, exist_ok=True)
            for square in squares(part, side, 2 * stride if held_out else stride):
                square.save(place / f"{count:05}.png")
                count += 1
    return count


def main() -> int:
    """Parse the command line and cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that is made")
    parser.add_argument("--side", type=int, default=32, help="pixels of a square (default: 32)")
    parser.add_argument(
        "--stride", type=int, default=3, help="pixels between neighbours, twice as many in test (default: 3)"
    )
    words = parser.parse_args()
    if words.folder.exists():
        print(f"{words.folder} is there already: remove it, or name another folder", file=sys.stderr)
        return 1
    words.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=words.folder.parent, prefix=".cut-") as beside:
        count = cut(Path(beside) / "whole", words.side, words.stride)
        (Path(beside) / "whole").rename(words.folder)
    print(f"{count} images of {words.side}x{words.side} in {words.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
