"""Files come from a folder, the cache or a url, and are right or refused."""

import gzip
import pathlib
import sys

import numpy as np
import pytest

from optlab.training import ConfigError, DataConfig
from optlab.training.data import DATASETS, load_data
from optlab.training.data._fetch import read
from optlab.training.data._sources import SOURCES
from tests.training.data import upstream

NAME = "mnist/t10k-labels-idx1-ubyte"
PAGE = "/ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz"
MIRROR = "/storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"
CIFAR = [name for name in SOURCES if name.startswith("cifar10/")]
NPZ = "omniglot/omniglot_28x28.npz"

DOWNLOADED = [name for name in DATASETS if name not in ("counting", "digits")]
ONE_OF_A_KIND = [  # of a group that shares its code
    name for name in DOWNLOADED if "/" not in name or name in ("libsvm/a9a", "uci/yacht")
]


def load(name):
    return load_data(DataConfig(name=name, length=4, split=3))


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def assert_same(one, other):
    assert one[2:] == other[2:]
    for a, b in zip((*one.train, *one.test), (*other.train, *other.test), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_a_sentence(error, *words):
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize("name", DOWNLOADED)
def test_folder_and_url_give_the_same(name, local, cache, monkeypatch):
    upstream.write(local)
    upstream.expect(monkeypatch)
    from_folder = load(name)
    assert not cache.exists(), "local files are read where they are"
    monkeypatch.delenv("OPTLAB_DATA_DIR")
    with upstream.serve(upstream.PAGES) as (host, asked):
        upstream.expect(monkeypatch, host)
        assert_same(load(name), from_folder)
        first = len(asked)
        assert_same(load(name), from_folder)
        assert len(asked) == first > 0, "the second time it is in the cache"
    assert_same(load(name), from_folder)


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_offline_without_a_copy(name, monkeypatch):
    with upstream.serve({}) as (host, _):
        pass  # the port is closed again
    upstream.expect(monkeypatch, host)
    with pytest.raises(ConfigError) as error:
        load(name)
    folder = name.replace("fashion_", "fashion-").replace("wikitext2", "wikitext-2")
    assert_a_sentence(error, folder, host, "OPTLAB_DATA_DIR", "connect to the network")


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_changed_download_is_refused(name, cache, monkeypatch):
    changed = upstream.packed({n: b"?" + content[1:] for n, content in upstream.FILES.items()})
    with upstream.serve(changed) as (host, _):
        upstream.expect(monkeypatch, host)
        with pytest.raises(ConfigError) as error:
            load(name)
    assert_a_sentence(error, host, "nothing was kept", "sha256")
    assert not files_in(cache)
    with upstream.serve(upstream.PAGES) as (host, _):
        upstream.expect(monkeypatch, host)
        load(name)


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_cut_download_is_refused(name, cache, monkeypatch):
    with upstream.serve(upstream.PAGES, cut=True) as (host, _):
        upstream.expect(monkeypatch, host)
        with pytest.raises(ConfigError) as error:
            load(name)
    assert_a_sentence(error, host)
    assert not files_in(cache)


PAGES = {"empty": b"", "html": b"<html>", "cut": gzip.compress(b"x" * 99, mtime=0)[:-9]}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_that_is_no_file_is_refused(page, cache, monkeypatch):
    with upstream.serve({PAGE: page}) as (host, _):
        upstream.expect(monkeypatch, host)
        with pytest.raises(ConfigError, match="did not give the mnist/t10k-labels"):
            read(NAME)
    assert not files_in(cache)


@pytest.mark.parametrize("first", [None, b"<html>"])
def test_the_mirror_stands_in(first, monkeypatch):
    pages = {MIRROR: upstream.PAGES[MIRROR]} | ({} if first is None else {PAGE: first})
    with upstream.serve(pages) as (host, asked):
        upstream.expect(monkeypatch, host)
        assert read(NAME) == upstream.FILES[NAME]
    assert asked == [PAGE, MIRROR]


def test_an_archive_is_downloaded_once(cache, monkeypatch):
    with upstream.serve(upstream.PAGES) as (host, asked):
        upstream.expect(monkeypatch, host)
        for name in CIFAR:
            assert read(name) == upstream.FILES[name]
    assert asked == ["/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
    assert files_in(cache) == sorted(CIFAR)


def test_an_archive_in_the_folder(local, cache, monkeypatch):
    packed = upstream.PAGES["/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
    (local / "cifar10").mkdir()
    path = local / "cifar10" / "cifar-10-binary.tar.gz"
    path.write_bytes(packed[:-20])
    upstream.expect(monkeypatch)
    with pytest.raises(ConfigError, match=r"cifar-10-binary\.tar\.gz did not give"):
        load("cifar10")
    assert not files_in(cache)
    path.write_bytes(packed)
    assert load("cifar10").train.inputs.shape == (20, 32, 32, 3)


@pytest.mark.parametrize("where", ["local", "cache"])
def test_a_changed_copy_is_refused(where, request, monkeypatch):
    folder = request.getfixturevalue(where)
    upstream.expect(monkeypatch)
    path = folder / f"{NAME}.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(upstream.FILES[NAME] + b"?"))
    with pytest.raises(ConfigError) as error:
        read(NAME)
    assert_a_sentence(error, str(path), NAME, "sha256", "replace it")
    path.write_bytes(gzip.compress(upstream.FILES[NAME])[:-4])
    with pytest.raises(ConfigError) as error:
        read(NAME)
    assert_a_sentence(error, str(path), "replace it")


def test_the_folder_comes_before_the_cache(local, cache, monkeypatch):
    upstream.expect(monkeypatch)
    upstream.write(local)
    upstream.write(cache)
    (cache / NAME).parent.mkdir(exist_ok=True)
    for path in cache.glob(f"{NAME}*"):
        path.write_bytes(b"?")
    assert read(NAME) == upstream.FILES[NAME]


def test_a_folder_that_is_none(monkeypatch):
    monkeypatch.setenv("OPTLAB_DATA_DIR", "no/such/folder")
    with pytest.raises(ConfigError, match="OPTLAB_DATA_DIR 'no/such/folder' is not a folder"):
        read(NAME)


@pytest.mark.parametrize("action", ["write_bytes", "replace"])
def test_a_full_disk_leaves_nothing(action, cache, monkeypatch):
    def fail(self, argument):
        if action == "write_bytes":
            self.touch()
        raise OSError(28, "No space left on device")

    with upstream.serve(upstream.PAGES) as (host, _):
        upstream.expect(monkeypatch, host)
        monkeypatch.setattr(pathlib.Path, action, fail)
        with pytest.raises(ConfigError) as error:
            read(NAME)
    assert_a_sentence(error, str(cache), "No space left", "OPTLAB_CACHE_DIR")
    assert not files_in(cache)


def test_a_cache_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPTLAB_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with upstream.serve(upstream.PAGES) as (host, _):
        upstream.expect(monkeypatch, host)
        with pytest.raises(ConfigError, match="set OPTLAB_CACHE_DIR"):
            read(NAME)


@pytest.mark.parametrize("tty", [False, True])
def test_a_bar_on_a_terminal_only(tty, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: tty)
    with upstream.serve(upstream.PAGES) as (host, _):
        upstream.expect(monkeypatch, host)
        read(NAME)
    assert ("t10k-labels-idx1-ubyte.gz: 100%" in capsys.readouterr().err) == tty


@pytest.mark.parametrize(
    "digest",
    [
        "900150983cd24fb0d6963f7d28e17f72",  # the test vectors of RFC 1321, RFC 3174, FIPS 180-2
        "a9993e364706816aba3e25717850c26c9cd0d89d",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ],
)
def test_hashes(digest, local, monkeypatch):
    (local / "mnist").mkdir()
    monkeypatch.setitem(SOURCES, NAME, SOURCES[NAME]._replace(digest=digest))
    (local / NAME).write_bytes(b"abc")
    assert read(NAME) == b"abc"
    (local / NAME).write_bytes(b"abd")
    with pytest.raises(ConfigError):
        read(NAME)


def test_the_table_of_sources():
    for name, source in SOURCES.items():
        assert len(source.digest) in (32, 40, 64)
        assert set(source.digest) <= set("0123456789abcdef")
        assert source.urls or name == NPZ
        assert all("{name}" not in url for url in (*source.urls, source.member))
    assert set(upstream.FILES) == set(SOURCES)
