# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write files by their name in an open directory: whole or not at all, synced, and behind no symlink."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from ansible_collections.community.backblaze.plugins.module_utils import _files
from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, modes_of

MODES = [PRIVATE, modes_of("0640"), modes_of("0666")]
NAME = "b2_vault.yml"


@pytest.fixture
def directory(tmp_path):
    """An open directory."""
    with _files.opened(None, str(tmp_path), _files.DIRECTORY) as fd:
        yield fd


@pytest.fixture
def synced(monkeypatch):
    """The inodes of files and directories that were synced."""
    inodes, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), inodes.append(os.fstat(fd).st_ino)))
    return inodes


@pytest.fixture
def umask():
    old = os.umask(0o022)
    yield
    os.umask(old)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("data", [b"", b"text", bytes(range(256)) * 1024], ids=["empty", "short", "long"])
def test_a_file_is_read_as_it_was_written(directory, tmp_path, synced, umask, monkeypatch, modes, data):
    """Also if the system writes only some bytes at a time."""
    written = os.write
    monkeypatch.setattr(os, "write", lambda fd, rest: written(fd, rest[:100_000]))
    found = _files.replace(directory, NAME, data, modes=modes)
    assert synced == [found.st_ino] and _files.identity(found) == _files.identity(os.stat(tmp_path / NAME))
    assert _files.get(directory, NAME) == data == (tmp_path / NAME).read_bytes()
    assert _files.look(directory, NAME)[1].st_ino == found.st_ino
    assert mode_of(tmp_path / NAME) == modes.file
    assert os.listdir(tmp_path) == [NAME] and _files.exists(directory, NAME)


def test_put_never_writes_to_a_file_that_exists(directory, tmp_path):
    (tmp_path / NAME).write_bytes(b"old")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    for name in (NAME, "link"):
        with pytest.raises(FileExistsError):
            _files.put(directory, name, b"new")
    assert (tmp_path / NAME).read_bytes() == b"old" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), StoreError("Somebody has changed the file.")])
def test_a_file_that_must_not_be_replaced_is_not_touched(directory, tmp_path, error):
    (tmp_path / NAME).write_bytes(b"old")
    seen = []

    def last_look():
        # The new content is whole by then, under another name.
        seen.extend(sorted(path.read_bytes() for path in tmp_path.iterdir()))
        raise error

    with pytest.raises(type(error)) as raised:
        _files.replace(directory, NAME, b"new", None, last_look)
    assert raised.value is error and seen == [b"new", b"old"]
    assert os.listdir(tmp_path) == [NAME] and (tmp_path / NAME).read_bytes() == b"old"


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o2664])
def test_a_file_gets_the_mode_of_the_one_that_it_replaces_unless_the_user_has_asked(directory, tmp_path, modes, mode):
    (tmp_path / NAME).write_bytes(b"old")
    os.chmod(tmp_path / NAME, mode)
    _files.replace(directory, NAME, b"new", os.stat(tmp_path / NAME), modes=modes)
    assert mode_of(tmp_path / NAME) == (modes.file if modes.given else mode & 0o777)


def test_what_is_no_plain_file_is_not_read(directory, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkdir(tmp_path / "directory")
    (tmp_path / "file").write_bytes(b"x")
    os.symlink(tmp_path / "file", tmp_path / "link")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    for name, error in (("pipe", errno.EINVAL), ("directory", errno.EINVAL), ("link", errno.ELOOP)):
        with pytest.raises(OSError, match=r".") as refused:
            _files.get(directory, name)
        assert refused.value.errno == error
    assert _files.exists(directory, "broken") and not _files.exists(directory, "nowhere")


def test_no_more_than_the_largest_file_is_read(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_LARGEST_FILE", 100)
    (tmp_path / NAME).write_bytes(b"x" * 1000)
    assert _files.get(directory, NAME) == b"x" * 100


@pytest.mark.parametrize("modes", MODES)
def test_directories_are_created_with_their_modes_and_synced_into_those_above(tmp_path, synced, umask, modes):
    path = tmp_path / "a" / "b" / "c"
    _files.make_directory(str(path), modes)
    assert synced == [os.stat(above).st_ino for above in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert [mode_of(one) for one in (path, path.parent, path.parent.parent)] == [modes.directory] * 3
    synced.clear()
    _files.make_directory(str(path), modes)
    assert synced == []


def test_a_directory_without_a_path_above_is_created_in_the_current_one(tmp_path, synced, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _files.make_directory("a")
    assert (tmp_path / "a").is_dir() and synced == [os.stat(tmp_path).st_ino]
    assert _files.nearest("b") == "." and _files.nearest("a/b/c") == "a"


def test_a_directory_that_another_run_creates_at_the_same_time_is_as_good(tmp_path, monkeypatch):
    mkdir = os.mkdir

    def second(*args, **options):
        mkdir(*args, **options)
        mkdir(*args, **options)

    monkeypatch.setattr(os, "mkdir", second)
    _files.make_directory(str(tmp_path / "a"))
    with _files.opened(None, str(tmp_path / "a"), _files.DIRECTORY) as fd, _files.opened_below(fd, ["b"], PRIVATE):
        pass
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("modes", MODES)
def test_directories_below_an_open_one_are_opened_and_created_only_if_asked_for(
    directory, tmp_path, synced, umask, modes
):
    with pytest.raises(FileNotFoundError), _files.opened_below(directory, ["a", "b"]):
        pass
    for _again in range(2):
        with _files.opened_below(directory, ["a", "b"], modes) as fd:
            assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "a" / "b"))
        # Also if they exist: the run that created them may have been killed before it synced them.
        assert synced == [os.stat(tmp_path).st_ino, os.stat(tmp_path / "a").st_ino]
        synced.clear()
    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == modes.directory
    with pytest.raises(OSError, match=r"."):
        os.fstat(fd)
    os.symlink(tmp_path / "a", tmp_path / "link")
    with pytest.raises(OSError, match=r"."), _files.opened_below(directory, ["link", "b"], modes):
        pass


def test_a_place_for_a_file_is_proven_on_both_levels(tmp_path):
    folder = str(tmp_path / "folder")
    for make in (lambda: None, lambda: os.mkdir(folder), lambda: (tmp_path / "folder" / NAME).write_bytes(b"")):
        make()
        _files.prove_file(folder, NAME)
    for there, what in ((tmp_path / "folder" / NAME, "a plain file"), (tmp_path / "folder", "a directory")):
        (os.rmdir if there.is_dir() else os.unlink)(there)
        for make, also in ((os.mkfifo, ""), (lambda path: os.symlink(tmp_path, path), " but a symlink")):
            make(there)
            with pytest.raises(StoreError) as refused:
                _files.prove_file(folder, NAME)
            assert refused.value.happened == f"{there} is not {what}{also}." and refused.value.remedy
            os.unlink(there)


@pytest.mark.parametrize("missing", [os.R_OK, os.W_OK, os.X_OK])
def test_a_directory_that_cannot_be_used_is_found_before_it_is(tmp_path, monkeypatch, missing):
    """Root may do everything; the answer of the system is taken from a stand-in."""
    asked = []
    monkeypatch.setattr(os, "access", lambda path, wanted: asked.append(path) or not wanted & missing)
    (tmp_path / "folder" / NAME).mkdir(parents=True)
    for prove in (
        lambda: _files.prove_file(str(tmp_path / "folder"), NAME),
        lambda: _files.prove_directory(str(tmp_path / "folder")),
        lambda: _files.prove_directory(str(tmp_path / "folder" / "b" / "c")),
    ):
        with pytest.raises(StoreError, match="cannot be written by this user") as refused:
            prove()
        assert refused.value.remedy
    assert asked == [str(tmp_path / "folder")] * 3


def test_the_nearest_directory_is_proven_for_one_that_does_not_exist(tmp_path):
    (tmp_path / "plain").write_text("x")
    os.symlink(tmp_path, tmp_path / "link")
    assert _files.prove_directory(str(tmp_path)) == _files.prove_directory(str(tmp_path / "a" / "b")) == str(tmp_path)
    # A link on the way is the business of those who made it.
    assert _files.prove_directory(str(tmp_path / "link" / "a")) == str(tmp_path / "link")
    for path, message in (("plain", "is not a directory"), ("plain/a", "is not a directory"), ("link", "is a symlink")):
        with pytest.raises(StoreError, match=message) as refused:
            _files.prove_directory(str(tmp_path / path))
        assert refused.value.remedy


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
        (OSError(errno.ENOTDIR, "x"), "a symlink or a plain file is in the way"),
        (OSError(errno.ELOOP, "x"), "a symlink or a plain file is in the way"),
        (PermissionError(errno.EACCES, "no", "path"), "no"),
        (PermissionError(errno.EACCES, "no", "other"), "other: no"),
        (PermissionError(errno.EACCES, "no"), "no"),
        (PermissionError(errno.EACCES, "no", 3), "no"),
        (FileNotFoundError(errno.ENOENT, "gone", "other"), "gone"),
        (OSError("only words"), "OSError"),
    ],
)
def test_an_error_of_the_system_is_told_with_its_reason(error, reason):
    with pytest.raises(StoreError) as raised, _files.explained("cannot be read", "path"):
        raise error
    assert raised.value.happened == f"path cannot be read ({reason})." and raised.value.remedy
    assert raised.value.__cause__ is error


def test_an_error_about_permissions_names_the_path_in_an_open_directory(directory, tmp_path, monkeypatch):
    def refused(*args, **options):
        raise PermissionError(errno.EACCES, "no", args[0])

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "mkdir", refused)
    for where, path in ((directory, str(tmp_path / "a")), (None, "a")):
        for work in (lambda where=where: _files.get(where, "a"), lambda where=where: _files.make_in(where, "a")):
            with pytest.raises(PermissionError) as raised:
                work()
            assert raised.value.filename == path


def test_the_room_is_that_of_the_nearest_directory(tmp_path, monkeypatch):
    asked = []

    class Found:
        f_bavail, f_frsize, f_files, f_favail = 3, 512, 10, 7

    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or Found)
    assert _files.room_in(str(tmp_path / "a" / "b")) == (1536, 7)
    Found.f_files = 0
    assert _files.room_in(str(tmp_path)) == (1536, None)
    assert asked == [str(tmp_path)] * 2


def test_the_identity_of_a_file_changes_with_the_file(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(b"one")
    before = os.stat(path)
    assert _files.identity(before) == _files.identity(os.stat(path))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert _files.identity(os.stat(path)) != _files.identity(before)
    path.write_bytes(b"longer")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _files.identity(os.stat(path)) != _files.identity(before)
    path.rename(tmp_path / "old")
    path.write_bytes(b"one")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _files.identity(os.stat(path)) != _files.identity(os.stat(tmp_path / "old"))
