"""Data sets by name, from a local folder, a cache or upstream, and the order of their batches."""

from optlab.training.data._dataset import Dataset, Examples, Windows, scale_pixels
from optlab.training.data._episodes import draw_episodes, examples_by_class
from optlab.training.data._load import DATASETS, load_data
from optlab.training.data._order import Batches, epoch_order

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "Examples",
    "Windows",
    "draw_episodes",
    "epoch_order",
    "examples_by_class",
    "load_data",
    "scale_pixels",
]
