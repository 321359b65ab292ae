# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write the files of a vault directory in tests, and give a store a hard time."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError

#: A name as a killed run leaves it beside a key file.
TEMPORARY = ".b2_vault.yml.0123456789ab.tmp"


def prove(store, *emails, write=True):
    """Run all checks of a store that come before the first create."""
    store.prove(emails or ("alice@x.example",), write=write)
    store.prove_room(1)
    if write:
        store.prove_writing()


def read(path):
    """Return the bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    """Write the bytes of a file, and create its directory."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def beside(path, name):
    """Return the path of another name in the directory of a file."""
    return os.path.join(os.path.dirname(path), name)


def contents(path):
    """Return the bytes of each plain file below a directory, by its path in the directory."""
    paths = [os.path.join(where, name) for where, _dirs, names in os.walk(path) for name in names]
    return {os.path.relpath(one, path): read(one) for one in paths if stat.S_ISREG(os.lstat(one).st_mode)}


def in_child(work):
    """Run work in a process of its own; return its last words and its exit status."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(writing, str(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        words = pipe.read()
    return words, os.waitpid(child, 0)[1]


def with_a_full_disk(work, size=512):
    """Run work in a process whose files can grow no further than size bytes; return its last words."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            return work()
        except StoreError as exc:
            return f"StoreError {exc}"

    words, status = in_child(limited)
    assert status == 0
    return words


@contextlib.contextmanager
def untouched(path):
    """Fail if a file below a directory is not, byte for byte, what it was before."""
    before = contents(path)
    yield
    assert contents(path) == before
