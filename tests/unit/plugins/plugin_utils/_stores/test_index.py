# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The index of key files: it spares decrypting, and vouches for nothing else than it saw."""

from __future__ import annotations

import os

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

MEMBERS = [f"m{number}@x.example" for number in range(5)]
FIRST = ("first", VaultSecret(b"the first password"))
SECOND = ("second", VaultSecret(b"the second password"))


@pytest.fixture
def a_run(tmp_path):
    """What a run does with the store: prove, lock, look, seal, remember."""

    def go(*new, secrets=(FIRST,), vault_id=None):
        store = HostVarsStore(str(tmp_path / "host_vars"), Sealer(list(secrets), vault_id))
        store.prove([one.email for one in new], write=True)
        with store.locked("100001", 0.0, lambda seconds: None):
            found = store.stored()
            for one in new:
                store.seal(one)
            store.remember()
        return found

    return go


@pytest.fixture
def sealed(a_run, new_member):
    """A directory in which one run has sealed every member."""
    a_run(*(new_member(email=email, key=f"K004{email}") for email in MEMBERS))
    return a_run


def test_what_a_run_sealed_the_next_one_knows_without_decrypting_it(sealed, decrypted):
    decrypted.clear()
    found = sealed()
    assert sorted(found) == MEMBERS and all(
        one.key_id and one.path.endswith(f"{email}/b2_vault.yml") for email, one in found.items()
    )
    # The proof of the secret, and the index.
    assert len(decrypted) == 2


def test_it_says_the_same_as_the_files(sealed, tmp_path):
    known = sealed()
    os.unlink(tmp_path / "host_vars" / ".b2_members" / ".index")
    assert sealed() == known


def test_it_holds_no_key_and_is_itself_sealed(sealed, tmp_path):
    content = (tmp_path / "host_vars" / ".b2_members" / ".index").read_bytes()
    assert content.startswith(b"$ANSIBLE_VAULT")
    plain = VaultLib([FIRST]).decrypt(content)
    assert b"K004" not in plain and MEMBERS[0].encode() in plain


def test_a_file_that_changed_is_opened_again(sealed, decrypted, tmp_path):
    path = tmp_path / "host_vars" / MEMBERS[0] / "b2_vault.yml"
    text = VaultLib([FIRST]).decrypt(path.read_bytes())
    path.write_bytes(VaultLib([FIRST]).encrypt(text.replace(b"5f2a1c0b3d4e", b"000000000000"), FIRST[1]))
    decrypted.clear()
    assert sealed()[MEMBERS[0]].account_id == "000000000000"
    assert len(decrypted) == 3
    path.write_bytes(path.read_bytes()[:-2] + b"00")
    with pytest.raises(StoreError, match="does not decrypt"):
        sealed()


def test_a_file_in_another_directory_is_not_known(sealed, tmp_path):
    os.rename(tmp_path / "host_vars" / MEMBERS[0], tmp_path / "host_vars" / "other@x.example")
    with pytest.raises(StoreError, match="another address"):
        sealed()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"$ANSIBLE_VAULT;1.1;AES256\n00\n", b"{}", None],
    ids=["empty", "text", "torn", "plain", "not a file"],
)
def test_a_damaged_index_is_as_good_as_none(sealed, tmp_path, content):
    index = tmp_path / "host_vars" / ".b2_members" / ".index"
    index.unlink()
    if content is None:
        index.symlink_to("/etc/passwd")
    else:
        index.write_bytes(content)
    assert sorted(sealed()) == MEMBERS
    assert VaultLib([FIRST]).decrypt(index.read_bytes())


@pytest.mark.parametrize("plain", [b"[]", b'{"m0@x.example": 1}', b'{"m0@x.example": ["", ""]}', b"null", b"\xff"])
def test_so_is_one_of_another_shape(sealed, tmp_path, plain):
    (tmp_path / "host_vars" / ".b2_members" / ".index").write_bytes(VaultLib([FIRST]).encrypt(plain, FIRST[1]))
    assert sorted(sealed()) == MEMBERS


def test_without_the_secret_that_a_file_was_sealed_with_nothing_vouches_for_it(a_run, new_member):
    """The index opens with the first secret; that must not make a file pass that only the second one opens."""
    a_run(new_member(email=MEMBERS[0]), secrets=(SECOND,))
    a_run(new_member(email=MEMBERS[1], key="K004another"), secrets=(FIRST, SECOND), vault_id="first")
    assert sorted(a_run(secrets=(FIRST, SECOND), vault_id="first")) == MEMBERS[:2]
    with pytest.raises(StoreError, match=r"m0@x.example.* does not decrypt"):
        a_run(secrets=(FIRST,))


def test_after_the_password_was_changed_the_old_one_opens_nothing(sealed, tmp_path):
    for email in MEMBERS:
        path = tmp_path / "host_vars" / email / "b2_vault.yml"
        path.write_bytes(VaultLib([SECOND]).encrypt(VaultLib([FIRST]).decrypt(path.read_bytes()), SECOND[1]))
    with pytest.raises(StoreError, match="does not decrypt"):
        sealed()
    assert sorted(sealed(secrets=(SECOND,))) == MEMBERS


def test_a_run_that_changes_nothing_leaves_it_alone(sealed, tmp_path):
    index = tmp_path / "host_vars" / ".b2_members" / ".index"
    before = index.stat().st_ino
    sealed()
    assert index.stat().st_ino == before
