"""What a training is about to see, as a picture."""

from __future__ import annotations

from PIL import Image

from hfgen.core.media import image_grid, labelled_grid
from hfgen.data.subset import draw_rows
from hfgen.data.training_set import TrainingSet

TRAINING_IMAGES = "training_images.png"
SHOWN = 64


def training_images(images: TrainingSet, seed: int) -> Image.Image:
    """64 training images at most as they are after decoding, drawn by `seed`, with the classes in proportion; of classes a row for each."""
    rows = draw_rows(SHOWN, len(images.train), images.train_labels, seed=seed)
    (pictures,) = images.train.batches([rows])
    if images.train_labels is None or (images.train_labels < 0).any():
        return image_grid(pictures)
    order = images.train_labels[rows].argsort(stable=True)
    names = [images.class_names[label] for label in images.train_labels[rows][order].tolist()]
    return labelled_grid(pictures[order.to(pictures.device)], names)
