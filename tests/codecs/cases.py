"""Every codec, and arrays to try it on."""

import pathlib

import jax.numpy as jnp
import numpy as np

from optlab import codecs

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

SIGNED = {
    "power8": codecs.power8(),
    "power8 p=1": codecs.linear8(),
    "power8 p=8": codecs.power8(p=8),
    "power8 bfloat16": codecs.power8(scale_dtype=jnp.bfloat16),
    "adaptive_power8": codecs.adaptive_power8(),
    "dynamic8": codecs.dynamic8(),
    "dynamic8 exact": codecs.dynamic8(exact=True),
    "float8": codecs.float8(),
    "float8 e5m2": codecs.float8("e5m2"),
    "coat8": codecs.coat8(),
    "flash8": codecs.flash8(),
    "dynamic4": codecs.dynamic4(),
    "mxfp4": codecs.mxfp4(),
    "mxfp4 rotated": codecs.mxfp4(rotation=0),
    "nvfp4": codecs.nvfp4(),
    "per_tensor dynamic8": codecs.per_tensor("dynamic8"),
    "microscaling ue5m3": codecs.microscaling(16, scale_dtype="ue5m3"),
    "bfloat16": codecs.bfloat16(),
    "float32": codecs.float32(),
}
UNSIGNED = {
    "unsigned power8": codecs.power8(signed=False),
    "unsigned power8 float16": codecs.power8(signed=False, scale_dtype="float16"),
    "unsigned adaptive_power8": codecs.adaptive_power8(signed=False),
    "unsigned dynamic8": codecs.dynamic8(signed=False),
    "unsigned float8": codecs.float8(signed=False),
    "unsigned coat8": codecs.coat8(signed=False),
    "unsigned flash8": codecs.flash8(signed=False),
    "linear4_nozero": codecs.linear4_nozero(),
    "rank1_linear4": codecs.rank1_linear4(),
    "unsigned per_tensor float8": codecs.per_tensor("float8('e5m2')", signed=False),
}
CODECS = {**SIGNED, **UNSIGNED}


def sample(name: str, shape=(8, 512), spread: float = 2.0) -> np.ndarray:
    """Heavy-tailed entries, some of them zero, with signs where the codec has them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * np.exp(spread * rng.normal(size=shape))
    x = np.where(rng.random(shape) < 0.02, 0.0, x).astype(np.float32)
    return x if name in SIGNED else np.abs(x)


def golden(name: str) -> dict:
    """The arrays of ``tests/golden/<name>.npz``."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def rows(x: np.ndarray, block: int) -> np.ndarray:
    """A vector cut as the peers cut it: ``[blocks, block]``, zeros at the end."""
    return np.pad(x, (0, -x.size % block)).reshape(-1, block)
