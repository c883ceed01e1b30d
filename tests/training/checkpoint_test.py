"""Checkpoints: every kind of leaf comes back as it was, or a sentence says why not."""

import contextlib
import os
import re
import resource
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.training import Checkpoints, ConfigError, StorageError


class Odd(NamedTuple):
    codes: tuple[jax.Array, ...]
    key: jax.Array
    empty: jax.Array
    nothing: None
    moments: optax.OptState


def _tree(seed):
    rng = np.random.default_rng(seed)
    params = {
        "w": jnp.asarray(rng.normal(size=(3, 4)), jnp.bfloat16),
        "b.0": jnp.float32(rng.normal()),
    }
    return Odd(
        codes=(
            jnp.asarray(rng.integers(0, 15, 5), jnp.uint4),
            jnp.asarray(rng.integers(-8, 7, 5), jnp.int4),
            jnp.asarray(rng.normal(size=2), jnp.float8_e4m3fn),
        ),
        key=jax.random.split(jax.random.key(seed), 2),
        empty=jnp.zeros((0, 3)),
        nothing=None,
        moments=optax.adamw(0.1).init(params),
    )


def _bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return str(leaf.dtype), np.asarray(leaf).tobytes()


def test_round_trip_of_odd_leaves(tmp_path):
    tree, config = _tree(1), {"model": {"widths": [1, 2]}}
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest() is None
    for step in (2, 5, 9):
        checkpoints.save(step, tree, config)

    again = Checkpoints(tmp_path / "c")
    assert again.latest() == 9
    assert again.config(9) == config
    back = again.restore(9, _tree(2))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert jax.tree.map(_bits, back) == jax.tree.map(_bits, tree)
    again.restore(5, _tree(2))  # the latest two are kept
    assert sorted(folder.name for folder in (tmp_path / "c").iterdir()) == ["5", "9"]


def test_another_state_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, {"a": {"w": jnp.ones((2, 3))}, "b": jnp.ones(2)}, {})
    target = {"a": {"w": jnp.ones((2, 3), jnp.bfloat16)}, "c": jnp.ones(2)}
    with pytest.raises(ConfigError) as caught:
        checkpoints.restore(1, target)
    for part in (
        "a.w is float32[2,3] there and bfloat16[2,3] here",
        "b is float32[2] there and absent here",
        "c is absent there and float32[2] here",
    ):
        assert part in str(caught.value)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two checkpoints, of steps 2 and 3, and what they hold."""
    folder = tmp_path_factory.mktemp("three") / "c"
    trees = {step: {"w": jnp.full((50, 40), float(step)), "b": jnp.ones(3)} for step in (1, 2, 3)}
    for step, tree in trees.items():
        Checkpoints(folder).save(step, tree, {"step": step})
    return folder, trees


def _files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _delete(file):
    file.unlink()


def _truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_delete, _truncate, _flip])
def test_a_damaged_file_gives_way_to_the_checkpoint_before(three, damage, tmp_path, caplog):
    original, trees = three
    names = [name for name in _files(original / "3") if (original / "3" / name).stat().st_size]
    assert len(names) > 5
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(original, folder)
        damage(folder / "3" / name)
        checkpoints = Checkpoints(folder)
        caplog.clear()
        assert checkpoints.latest() == 2, name
        assert list(checkpoints.damaged) == [3]
        (warning,) = caplog.messages
        assert re.search(r": damaged: 3 \(.+\); the run goes on from 2\.$", warning)
        assert "\n" not in warning
        assert name.name in warning or name.name == "digests.json"  # which blames the others
        assert checkpoints.config(2) == {"step": 2}
        back = checkpoints.restore(2, trees[3])
        assert jax.tree.map(_bits, back) == jax.tree.map(_bits, trees[2])
    checkpoints.save(3, trees[3], {"step": 3})  # in its place
    assert Checkpoints(folder).latest() == 3


def test_none_that_is_sound(three, tmp_path, caplog):
    original, trees = three
    shutil.copytree(original, tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "3")
    (tmp_path / "c" / "3").mkdir()
    _flip(tmp_path / "c" / "2" / "digests.json")
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest() is None
    assert set(checkpoints.damaged) == {2, 3}
    assert caplog.messages[0].endswith("the run starts anew.")
    checkpoints.save(1, trees[1], {})
    assert Checkpoints(tmp_path / "c").latest() == 1
    assert [folder.name for folder in (tmp_path / "c").iterdir()] == ["1"]


def test_what_a_kill_leaves_half_written_is_no_checkpoint(three, tmp_path):
    original, trees = three
    shutil.copytree(original, tmp_path / "c")
    for name in ("4.tmp", "5.tmp.orbax-checkpoint-tmp"):
        shutil.copytree(original / "3", tmp_path / "c" / name)
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest() == 3
    assert not checkpoints.damaged
    checkpoints.save(4, trees[1], {})
    assert sorted(folder.name for folder in (tmp_path / "c").iterdir()) == ["3", "4"]


@contextlib.contextmanager
def _files_of_at_most(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_refused_write_leaves_the_earlier_checkpoints(three, tmp_path):
    shutil.copytree(three[0], tmp_path / "c")
    checkpoints = Checkpoints(tmp_path / "c")
    big = {"w": jax.random.normal(jax.random.key(0), (200_000,))}
    message = (
        r"^checkpoint 4 cannot be saved in .*: File too large; the latest is that of step 3\.$"
    )
    with _files_of_at_most(100_000), pytest.raises(StorageError, match=message):
        checkpoints.save(4, big, {})
    assert sorted(folder.name for folder in (tmp_path / "c").iterdir()) == ["2", "3"]
    assert Checkpoints(tmp_path / "c").latest() == 3
    checkpoints.save(4, big, {})
    assert Checkpoints(tmp_path / "c").latest() == 4


@pytest.mark.parametrize("codec", ["dynamic8", "coat8"], ids=["same_shapes", "other_shapes"])
def test_another_codec_is_named(codec, tmp_path):
    checkpoints, params = Checkpoints(tmp_path), {"w": jnp.ones((4, 256))}
    stored = optlab.lion8bit(1e-3, min_size=1).init(params)
    checkpoints.save(1, stored, {})
    like = optlab.lion8bit(1e-3, codec=codec, min_size=1).init(params)
    with pytest.raises(ConfigError, match=rf"state has 0/mu/w in power8, not in {codec}: requant"):
        checkpoints.restore(1, like)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(1, stored), stored)
