# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys as Ansible Vault texts: the one serialiser and the one place that encrypts.

Ansible's own ``VaultLib`` is called on bytes, never the ``vault`` filter and never ``to_yaml``: on current releases those
have been measured to write a secret, or the vault password itself, in clear.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import threading
import typing as t

import yaml
from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, match_encrypt_secret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, folded, may_be_template
from ansible_collections.community.backblaze.plugins.module_utils._plan import Stored

Secrets = t.Sequence[tuple[str, t.Any]]

_HEADER = "---\n# Sealed by community.backblaze. Backblaze shows this key nowhere else: keep this file.\n"
_SALT_BYTES = 32
# What stands for itself between double quotes, as nearly all that Backblaze sends does; a YAML emitter costs more than all else here.
_PLAIN = re.compile(r"[A-Za-z0-9@._+/:=-]*")
_NO_VAULT = (
    "Give the run a vault password, with --vault-id or --vault-password-file, ANSIBLE_VAULT_PASSWORD_FILE, or a vault credential in the job template."
)


class Sealer:
    """Encrypts with the vault secrets of the run.

    vault_id: the id to encrypt with; by default Ansible's own rule, ``vault_encrypt_identity`` or else the first secret.

    Raises StoreError where there is no secret, or none of that id.
    """

    def __init__(self, secrets: Secrets, vault_id: t.Optional[str] = None) -> None:
        if not secrets:
            raise StoreError("This run has no vault secret, so no key could be stored.", remedy=_NO_VAULT)
        identity = vault_id or C.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
        try:
            chosen = match_encrypt_secret(list(secrets), encrypt_vault_id=identity)
        except AnsibleError:
            known = ", ".join(sorted({str(name) for name, _secret in secrets}))
            raise StoreError(f"This run has no vault secret with the id {identity!r}; it has {known}.", remedy=_NO_VAULT) from None
        self._vault_id, self._secret = str(chosen[0]), chosen[1]
        self._told = bool(vault_id)
        self._secrets = list(secrets)
        # Deriving a key is all computing: more at once than there are cores would only keep those waiting that talk to Backblaze.
        self._cores = threading.Semaphore(os.cpu_count() or 1)

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt; every call has a salt of its own, even where the configuration fixes one."""
        try:
            with self._cores:
                sealed = VaultLib(self._secrets).encrypt(plaintext, secret=self._secret, vault_id=self._vault_id, salt=os.urandom(_SALT_BYTES))
        except AnsibleError as exc:
            raise StoreError(f"Ansible Vault could not encrypt ({type(exc).__name__}).") from None
        return bytes(sealed)

    def open(self, sealed: bytes, path: str, *, alone: bool = False) -> bytes:
        """Decrypt, or say which file it is that does not; alone: with no other secret than the one that this sealer encrypts with."""
        if not VaultLib.is_encrypted(sealed):
            raise StoreError(f"{path} is not an Ansible Vault file.", remedy="Move it away, or encrypt it with ansible-vault.")
        try:
            return bytes(VaultLib([(self._vault_id, self._secret)] if alone else self._secrets).decrypt(sealed))
        except AnsibleError:
            raise StoreError(
                f"{path} does not decrypt with the vault secrets of this run.", remedy="Give the run the vault password of that file."
            ) from None

    def open_to_rewrite(self, sealed: bytes, path: str) -> tuple[bytes, Sealer]:
        """Decrypt a file that holds other things as well, and return with it the sealer for writing it again.

        That one keeps the secret that opened the file and the id in its header, as ``ansible-vault edit`` does, unless a vault_id was given.
        """
        if not self._told:
            header = sealed.partition(b"\n")[0].decode("utf-8", "replace").strip().split(";")
            label = header[3] if len(header) > 3 else "default"
            for _name, secret in sorted(self._secrets, key=lambda one: str(one[0]) != label):
                own = copy.copy(self)
                own._vault_id, own._secret = label, secret
                with contextlib.suppress(StoreError):
                    return own.open(sealed, path, alone=True), own
        return self.open(sealed, path), self

    def opens_alone(self, sealed: bytes) -> bool:
        """Tell whether the secret that this sealer encrypts with opens a file of which it is known that some secret does."""
        if len(self._secrets) == 1:
            return True
        try:
            self.open(sealed, "", alone=True)
        except StoreError:
            return False
        return True

    def prove(self) -> None:
        """Encrypt and decrypt a probe, so that no key is made that could not be stored."""
        probe = os.urandom(16)
        if self.open(self.seal(probe), "a probe") != probe:
            raise StoreError("Ansible Vault did not give back what it encrypted.")


# Tags of a value that is text however it looks: YAML on its own takes an account id for a number, and one in octal at that.
_TEXT_TAGS = (None, "!", "!unsafe", "tag:yaml.org,2002:str")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def is_null(value: str, *, bare: bool) -> bool:
    """Tell whether a scalar is nothing; bare: it stands there without quotes and tag."""
    return bare and value in _NULLS


def text_of(value: str, tag: t.Optional[str], *, bare: bool) -> t.Optional[str]:
    """Return what a scalar of a key file stands for, which is the text that is written there; None where its tag says that it is no text."""
    if tag not in _TEXT_TAGS:
        return None
    return "" if is_null(value, bare=bare) else value


def quoted(value: str) -> str:
    """Return a text as YAML, on one line and in printable ASCII."""
    if _PLAIN.fullmatch(value):
        return f'"{value}"'
    return str(yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=False)).strip()


def _scalar(value: str) -> str:
    """Return a value as YAML that Ansible does not take for a template, whatever the service sent."""
    text = quoted(value)
    # Only where it is needed: on a plain text Ansible would resolve the type anew, and a date or "~" would be text no more.
    return f"!unsafe {text}" if may_be_template(value) else text


#: What a key is stored with.
FIELDS = frozenset({"b2_application_key_id", "b2_application_key", "b2_account_id", "b2_email", "b2_group_id", "b2_region", "b2_s3_endpoint"})


def key_variables(new: NewMember) -> dict[str, str]:
    """Return the host variables of a member, its key among them."""
    member = new.member
    return {
        "b2_application_key_id": new.key_id,
        "b2_application_key": new.key,
        "b2_account_id": member.account_id,
        "b2_email": member.email,
        "b2_group_id": member.group_id,
        "b2_region": member.region,
        "b2_s3_endpoint": member.s3_endpoint,
    }


def key_text(new: NewMember) -> bytes:
    """Return the text of a file that holds the host variables of a member."""
    return (_HEADER + "".join(f"{name}: {_scalar(value)}\n" for name, value in key_variables(new).items())).encode("utf-8")


def holds_more(plaintext: bytes, variables: t.Mapping[str, str]) -> bool:
    """Tell whether the text of a key file holds more than its key: other variables, or a comment."""
    if plaintext == key_text(as_new_member(variables)):
        return False
    ours = _HEADER.encode("utf-8").splitlines()
    return not FIELDS.issuperset(variables) or any(b"#" in line for line in plaintext.splitlines() if line not in ours)


def key_line(new: NewMember) -> str:
    """Return the host variables of a member as one value on one line, to stand under its address.

    Its address is not among them: from 2.22 on ansible-core masks every value of a vault file wherever it is shown, and hosts have that name.
    """
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in key_variables(new).items() if name != "b2_email") + "}"


def as_new_member(variables: t.Mapping[str, str]) -> NewMember:
    """Return what key_text made its text from."""
    member = Member(
        account_id=variables.get("b2_account_id", ""),
        email=folded(variables["b2_email"]),
        group_id=variables.get("b2_group_id", ""),
        region=variables.get("b2_region", ""),
        s3_endpoint=variables.get("b2_s3_endpoint", ""),
    )
    return NewMember(member, variables.get("b2_application_key_id", ""), variables["b2_application_key"])


def as_stored(variables: t.Mapping[str, str], path: str = "") -> Stored:
    """Return what is known of a stored key, without the key."""
    return Stored(variables.get("b2_account_id", ""), variables.get("b2_application_key_id", ""), path, variables.get("b2_group_id", ""))


def read_key_text(plaintext: bytes, path: str, email: t.Optional[str] = None) -> dict[str, str]:
    """Return the variables of a key file, or say that it is none, or not that of an address; one that is no text is under a name that is none."""
    variables: dict[str, str] = {}
    # No tag is resolved, so every scalar is as it is written. RecursionError: what is nested deeper than anybody means.
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        root = yaml.compose(plaintext, Loader=yaml.BaseLoader)
        variables = dict(_pair(name, value) for name, value in root.value) if isinstance(root, yaml.MappingNode) else {}
    if not is_key(variables):
        raise StoreError(
            f"{path} decrypts, but does not hold a member's key.", remedy="Move it away: this name is where the key of that member belongs."
        )
    if email is not None and not is_key_of(variables, email):
        raise StoreError(f"{path} holds the key of another address.", remedy="Move it to the directory of its own address.")
    return variables


def _pair(name: yaml.Node, value: yaml.Node) -> tuple[str, str]:
    texts = [text_of(node.value, node.tag, bare=node.style is None) if isinstance(node, yaml.ScalarNode) else None for node in (name, value)]
    if texts[0] is None or texts[1] is None:
        return yaml.serialize(name), yaml.serialize(value)
    return texts[0], texts[1]


def is_key(variables: t.Mapping[str, str]) -> bool:
    """Tell whether variables are those of a key."""
    return "b2_application_key" in variables and "b2_email" in variables


def is_key_of(variables: t.Mapping[str, str], email: str) -> bool:
    """Tell whether the variables of a key belong to an address."""
    return folded(variables["b2_email"]) == email
