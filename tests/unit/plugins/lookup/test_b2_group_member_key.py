# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which vault files the lookup decrypts, and what it returns. How plays use it is tested by the integration target of
its name."""

from __future__ import annotations

import os
import types

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.template import Templar

from ansible_collections.community.backblaze.plugins.lookup import b2_group_member_key as lookup
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import open_store
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

try:
    from ansible.template import trust_as_template
except ImportError:
    trust_as_template = str

SECRETS = [("default", VaultSecret(b"correct horse"))]
FIELDS = ["application_key_id", "application_key", "account_id", "region", "s3_endpoint"]


def new_member(number, group_id="100001", region="us-west"):
    return StoredKey(
        f"m{number}@x.example",
        f"004{number}",
        f"K004{number}",
        account_id=f"5f2a1c0b3d{number:02}",
        group_id=group_id,
        region=region,
        s3_endpoint="s3.x.example",
    )


@pytest.fixture
def sealed(tmp_path):
    """Seals members in a layout; returns the vault directory."""

    def seal(layout, *news):
        (tmp_path / "vault").mkdir(exist_ok=True)
        for new in news:
            open_store(layout, str(tmp_path / "vault"), Sealer(SECRETS), new.group_id).seal(new)
        return str(tmp_path / "vault")

    return seal


@pytest.fixture
def look_up(monkeypatch):
    """Runs the plugin with a run's vault secrets; returns its result."""

    def run(*terms, secrets=None, **given):
        options = {"vault_layout": "host_vars", "group_id": None, **given}
        monkeypatch.setattr(lookup.LookupModule, "set_options", lambda self, **_given: None)
        monkeypatch.setattr(lookup.LookupModule, "get_option", lambda self, name: options[name])
        loader = types.SimpleNamespace(
            get_basedir=os.getcwd, _vault=types.SimpleNamespace(secrets=SECRETS if secrets is None else secrets)
        )
        return lookup.LookupModule(loader=loader).run(list(terms), {})

    return run


@pytest.fixture
def decrypted(monkeypatch):
    calls = []
    decrypt = VaultLib.decrypt
    monkeypatch.setattr(
        VaultLib, "decrypt", lambda self, *args, **kwargs: calls.append(args) or decrypt(self, *args, **kwargs)
    )
    return calls


def snapshot(path):
    return {
        os.path.join(root, name): os.stat(os.path.join(root, name)).st_mtime_ns
        for root, dirs, files in os.walk(path)
        for name in (*dirs, *files)
    }


def test_one_address_decrypts_one_file(sealed, look_up, decrypted):
    path = sealed("host_vars", *(new_member(number) for number in range(20)))
    before = snapshot(path)
    decrypted.clear()
    assert look_up("M7@X.example", vault_dir=path) == [
        {
            "application_key_id": "0047",
            "application_key": "K0047",
            "account_id": "5f2a1c0b3d07",
            "region": "us-west",
            "s3_endpoint": "s3.x.example",
        }
    ]
    assert len(decrypted) == 1
    assert snapshot(path) == before


@pytest.mark.parametrize("group_id, files", [("100001", 1), ("", 2)], ids=["one Group", "all Groups"])
def test_many_addresses_decrypt_the_file_of_a_group_once(sealed, look_up, decrypted, group_id, files):
    path = sealed("group_vars", *(new_member(number) for number in range(5)), new_member(5, "100002"))
    before = snapshot(path)
    decrypted.clear()
    keys = look_up(
        *(f"m{number}@x.example" for number in range(5)), vault_dir=path, vault_layout="group_vars", group_id=group_id
    )
    assert [key["application_key"] for key in keys] == [f"K004{number}" for number in range(5)]
    assert [list(key) for key in keys] == [FIELDS] * 5
    assert len(decrypted) == files
    assert snapshot(path) == before


def test_a_key_of_another_group_is_not_returned(sealed, look_up):
    path = sealed("group_vars", new_member(1), new_member(2, "100002"))
    with pytest.raises(AnsibleLookupError, match=r"There is no key of m2@x.example in .*b2_group_100001"):
        look_up("m2@x.example", vault_dir=path, vault_layout="group_vars", group_id="100001")


def test_an_address_with_keys_in_two_groups_wants_a_group(sealed, look_up):
    path = sealed("group_vars", new_member(1), new_member(1, "100002"))
    with pytest.raises(AnsibleLookupError, match=r"in several vault files.*group_id") as caught:
        look_up("m1@x.example", vault_dir=path, vault_layout="group_vars")
    assert "K0041" not in str(caught.value)


def test_the_other_layout_is_proposed(sealed, look_up):
    with pytest.raises(AnsibleLookupError, match="may be host_vars"):
        look_up("m1@x.example", vault_dir=sealed("host_vars", new_member(1)), vault_layout="group_vars")


def test_a_value_that_may_be_a_template_is_not_evaluated(sealed, look_up):
    [key] = look_up("m1@x.example", vault_dir=sealed("host_vars", new_member(1, region="{{ 7 * 7 }}")))
    assert key["application_key"].__class__ is str
    templar = Templar(loader=DataLoader(), variables={"key": key})
    assert templar.template(trust_as_template("<{{ key.region }}>")) == "<{{ 7 * 7 }}>"


def test_the_key_is_told_to_what_masks_secrets(sealed, look_up, monkeypatch):
    told = []
    monkeypatch.setattr(lookup, "register_secret", told.append)
    look_up("m1@x.example", vault_dir=sealed("host_vars", new_member(1)))
    assert told == ["K0041"]


@pytest.mark.parametrize("term", ["", "m1", "../m1@x.example", "m1@x.example/..", ".b2_members", 7, None])
def test_what_is_no_address_is_refused(sealed, look_up, term):
    with pytest.raises(AnsibleLookupError, match="is not an address"):
        look_up(term, vault_dir=sealed("host_vars", new_member(1)))


def test_a_run_without_a_vault_secret_is_told(sealed, look_up):
    with pytest.raises(AnsibleLookupError, match="no vault secret"):
        look_up("m1@x.example", vault_dir=sealed("host_vars", new_member(1)), secrets=[])
