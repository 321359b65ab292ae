# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys as vault texts: what Ansible itself reads from them."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.template import Templar

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import key_text
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 every text is taken for a template

    def trust_as_template(text):
        return text

    TRUST = {}
else:
    # As Ansible itself loads host variables.
    TRUST = {"trusted_as_template": True}


HOSTILE = [
    "{{ 7*7 }}",
    "{% raw %}x{% endraw %}",
    "{# gone #}",
    "#jinja2:variable_start_string:'[[',variable_end_string:']]'\n[[ 7*7 ]]",
    "us-west\nb2_application_key: stolen",
    "'single' \"double\" \\ `back`",
    "!vault x",
    "!unsafe x",
    "&a *a",
    "yes",
    "007",
    "null",
    "2026-01-01",
    "",
    "~",
    "- a",
    "# no comment",
    "\u00fc\u4e2d\U0001f600\u2028\x85\ufeff",
    "x" * 5000,
]


def as_ansible_reads_it(path, secrets):
    loader = DataLoader()
    loader.set_vault_secrets(secrets)
    return loader, loader.load_from_file(str(path), **TRUST)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_the_service_sent_is_read_by_ansible_as_the_same_text_and_is_no_template(
    secrets, tmp_path, new_member, text
):
    new = new_member(region=text, s3_endpoint=text)
    path = tmp_path / "b2_vault.yml"
    path.write_bytes(Sealer(secrets).seal(key_text(new)))
    loader, variables = as_ansible_reads_it(path, secrets)
    assert (variables["b2_region"], variables["b2_s3_endpoint"], variables["b2_application_key"]) == (
        text,
        text,
        new.key,
    )
    assert isinstance(variables["b2_region"], str)
    assert set(variables) == {
        f"b2_{name}"
        for name in (
            "application_key_id",
            "application_key",
            "account_id",
            "email",
            "group_id",
            "region",
            "s3_endpoint",
        )
    }
    used = Templar(loader=loader, variables=variables).template(trust_as_template("{{ b2_region }}"))
    assert used == text
    assert isinstance(used, str)


def test_two_seals_of_the_same_key_differ_whatever_is_configured(secrets, monkeypatch):
    monkeypatch.setenv("ANSIBLE_VAULT_ENCRYPT_SALT", "always the same")
    sealer = Sealer(secrets)
    first, second = sealer.seal(b"text"), sealer.seal(b"text")
    assert first != second
    assert sealer.open(first, "p") == sealer.open(second, "p") == b"text"


def test_the_vault_id_to_encrypt_with(monkeypatch):
    secrets = [("dev", VaultSecret(b"one")), ("prod", VaultSecret(b"two"))]

    def header(**options):
        return Sealer(secrets, **options).seal(b"x").splitlines()[0]

    monkeypatch.delenv("ANSIBLE_VAULT_ENCRYPT_IDENTITY", raising=False)
    assert header().endswith(b";dev")
    assert header(vault_id="prod").endswith(b";prod")
    monkeypatch.setenv("ANSIBLE_VAULT_ENCRYPT_IDENTITY", "prod")
    assert header().endswith(b";prod")
    assert header(vault_id="dev").endswith(b";dev")
    with pytest.raises(StoreError) as failed:
        Sealer(secrets, "staging")
    assert "'staging'" in str(failed.value)
    assert "dev, prod" in str(failed.value)
    # What one id sealed the other cannot open.
    monkeypatch.delenv("ANSIBLE_VAULT_ENCRYPT_IDENTITY")
    with pytest.raises(StoreError, match="does not decrypt"):
        Sealer([("dev", VaultSecret(b"one"))]).open(Sealer(secrets, "prod").seal(b"x"), "p")


@pytest.mark.parametrize("label", ["default", "prod", "theirs"])
@pytest.mark.parametrize("password", [b"one", b"two"])
@pytest.mark.parametrize("vault_id", [None, "dev"])
def test_a_file_is_written_again_with_its_own_secret_and_id_unless_another_is_asked_for(
    decrypted, label, password, vault_id
):
    secrets = [("dev", VaultSecret(b"one")), ("prod", VaultSecret(b"two"))]
    sealed = Sealer([(label, VaultSecret(password))]).seal(b"x")
    plaintext, sealer = Sealer(secrets, vault_id).open_to_rewrite(sealed, "p")
    again = sealer.seal(plaintext)
    assert plaintext == b"x"
    if vault_id:
        assert again.startswith(b"$ANSIBLE_VAULT;1.2;AES256;dev\n")
        assert VaultLib([secrets[0]]).decrypt(again) == b"x"
    else:
        assert again.splitlines()[0] == sealed.splitlines()[0]
        assert VaultLib([("x", VaultSecret(password))]).decrypt(again) == b"x"


def test_the_secret_that_a_file_names_is_tried_first(decrypted):
    """Each attempt takes some milliseconds by design."""
    secrets = [(name, VaultSecret(name.encode())) for name in ("a", "b", "c", "d")]
    sealed = Sealer(secrets, "d").seal(b"x")
    assert Sealer(secrets).open_to_rewrite(sealed, "p")[0] == b"x"
    assert len(decrypted) == 1


def test_a_file_that_no_secret_opens_is_not_written_again(secrets):
    sealed = Sealer([("default", VaultSecret(b"another"))]).seal(b"x")
    for content in (sealed, sealed[:100]):
        with pytest.raises(StoreError, match="some/path does not decrypt"):
            Sealer(secrets).open_to_rewrite(content, "some/path")


def test_a_file_opens_alone_with_the_secret_that_is_used_to_encrypt():
    one, two = (VaultSecret(b"one"), VaultSecret(b"two"))
    both = Sealer([("one", one), ("two", two)], "two")
    assert both.opens_alone(Sealer([("x", two)]).seal(b"x"))
    assert not both.opens_alone(Sealer([("two", one)]).seal(b"x"))


def test_a_vault_that_gives_back_something_else_is_found_by_the_proof(secrets, monkeypatch):
    Sealer(secrets).prove()
    monkeypatch.setattr(VaultLib, "decrypt", lambda self, sealed: b"something else")
    with pytest.raises(StoreError, match="did not give back"):
        Sealer(secrets).prove()


def test_a_vault_that_cannot_encrypt_says_so_without_the_text(secrets, monkeypatch):
    def fails(self, plaintext, **options):
        raise AnsibleError(f"cannot encrypt {plaintext!r}")

    monkeypatch.setattr(VaultLib, "encrypt", fails)
    with pytest.raises(StoreError, match="could not encrypt") as failed:
        Sealer(secrets).seal(b"K004secret")
    assert "K004" not in str(failed.value) and failed.value.__cause__ is None and failed.value.__suppress_context__


def test_without_a_secret_nothing_begins():
    with pytest.raises(StoreError, match="no vault secret") as failed:
        Sealer([])
    assert "--vault-password-file" in str(failed.value)


def test_what_is_no_vault_text_or_of_another_password_is_named(secrets):
    sealer = Sealer(secrets)
    with pytest.raises(StoreError, match="some/path is not an Ansible Vault file"):
        sealer.open(b"b2_application_key: plain\n", "some/path")
    for sealed in (
        Sealer([("default", VaultSecret(b"wrong"))]).seal(b"x"),
        sealer.seal(b"x")[:-20],
        b"$ANSIBLE_VAULT;1.1;AES256\nzz\n",
    ):
        with pytest.raises(StoreError, match="some/path does not decrypt"):
            sealer.open(sealed, "some/path")
