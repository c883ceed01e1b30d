"""What the last checkpoint of a run holds."""

import pathlib

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from optlab import training


def last_leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the newest sound checkpoint, by path."""
    folder = workdir / "checkpoints"
    newest = folder / str(training.Checkpoints(folder).latest())
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in ocp.metadata(newest).metadata.items()
    }
    return {path: np.asarray(leaf) for path, leaf in ocp.load(newest, like).items()}
