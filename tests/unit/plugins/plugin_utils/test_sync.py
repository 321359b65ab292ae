# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A key is on disk when a store says so: what is synced, and in which order, so that a power cut at any moment leaves
it whole or not there."""

from __future__ import annotations

import os

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import group_directory
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.fallback import FallbackStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import open_store
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

ALICE = "alice@x.example"
GROUP = "100001"


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What was synced and renamed so far, by paths below the test's own directory; names that are made up are
    shortened."""
    steps = []
    fsync, rename = os.fsync, os.rename

    def named(path):
        path = os.path.relpath(path, tmp_path)
        return f"{os.path.dirname(path)}/temporary" if path.endswith(".tmp") else path

    def of(directory, name):
        return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), name)

    def synced(fd):
        fsync(fd)
        steps.append(("fsync", named(os.readlink(f"/proc/self/fd/{fd}"))))

    def renamed(source, target, *, src_dir_fd, dst_dir_fd):
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        steps.append(("rename", named(of(src_dir_fd, source)), named(of(dst_dir_fd, target))))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    return steps


@pytest.mark.parametrize("layout, folder", [("host_vars", ALICE), ("group_vars", group_directory(GROUP))])
def test_a_key_that_is_sealed_is_on_disk(tmp_path, secrets, new_member, done, layout, folder):
    store = open_store(layout, str(tmp_path / "keys"), Sealer(secrets), GROUP)
    store.prove([ALICE], write=True)
    # The directory itself is on disk before there is a key.
    assert done == [("fsync", ".")]
    done.clear()
    path = os.path.relpath(store.seal(new_member()), tmp_path)
    written = [("fsync", f"keys/{folder}/temporary"), ("rename", f"keys/{folder}/temporary", path)]
    names = [("fsync", f"keys/{folder}"), ("fsync", "keys")]
    assert path == f"keys/{folder}/b2_vault.yml"
    assert done == written + names
    # Once more, as after a write that failed at its last step: the bytes stay, the names are synced.
    done.clear()
    store.seal(new_member())
    assert done == names


def test_a_key_in_the_fallback_directory_is_on_disk(tmp_path, secrets, new_member, done):
    path = FallbackStore(str(tmp_path / "state" / "fallback"), Sealer(secrets)).seal(new_member())
    made = [("fsync", "."), ("fsync", "state")]
    written = [
        ("fsync", "state/fallback/temporary"),
        ("rename", "state/fallback/temporary", os.path.relpath(path, tmp_path)),
    ]
    assert done == [*made, *written, ("fsync", "state/fallback")]
