"""The embedded digits: scikit-learn's 1,797 handwritten digits of 8x8 pixels, as a `datasets` source."""

from __future__ import annotations

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from sklearn.datasets import load_digits

DIGITS = "digits"
TRAIN_IMAGES = 1500


def embedded_digits() -> DatasetDict:
    """Splits "train" (the first 1,500 images) and "test" (297), columns "image" (PNG, grey 0..255) and "label" (0..9).

    The source has 17 grey levels, 0..16; they are spread over 0..255.
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})

    def split(rows):
        return Dataset.from_dict(
            {"image": list(images[rows]), "label": digits.target[rows].tolist()}, features=features
        )

    return DatasetDict(train=split(slice(TRAIN_IMAGES)), test=split(slice(TRAIN_IMAGES, None)))
