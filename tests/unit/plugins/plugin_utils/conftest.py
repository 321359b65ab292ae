# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Vault secrets and stores, all of them real."""

from __future__ import annotations

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer


@pytest.fixture
def secrets():
    return [("default", VaultSecret(b"correct horse"))]


@pytest.fixture
def vault(secrets):
    return VaultLib(secrets)


@pytest.fixture
def store(tmp_path, secrets):
    return HostVarsStore(str(tmp_path / "host_vars"), Sealer(secrets))


@pytest.fixture
def new_member():
    def make(email="alice@x.example", key="K004abc/DEF+ghi_JKL-mno/PQRstuv", **fields):
        known = {"account_id": "5f2a1c0b3d4e", "group_id": "100001", "region": "us-west", **fields}
        return StoredKey(email, "0045f2a1c0b3d4e0000000001", key, **known)

    return make


@pytest.fixture
def decrypted(monkeypatch):
    """How many texts were decrypted so far, as a list to be cleared."""
    calls = []
    decrypt = VaultLib.decrypt
    monkeypatch.setattr(
        VaultLib, "decrypt", lambda self, *args, **kwargs: calls.append(args) or decrypt(self, *args, **kwargs)
    )
    return calls
