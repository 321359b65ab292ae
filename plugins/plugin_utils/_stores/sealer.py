# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypt and decrypt with the vault secrets of the run. No other code encrypts.

Ansible's own ``VaultLib`` is called on bytes, never the ``vault`` filter and never ``to_yaml``: on current releases
these have been measured to write a secret, or the vault password itself, in clear.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import typing as t

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, match_encrypt_secret

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError

Secrets = t.Sequence[tuple[str, t.Any]]

_SALT_BYTES = 32
_NO_VAULT = (
    "Give the run a vault password, with --vault-id or --vault-password-file, ANSIBLE_VAULT_PASSWORD_FILE, or a vault "
    "credential in the job template."
)


class Sealer:
    """Encrypts with the vault secrets of the run.

    vault_id: the id to encrypt with. The default is Ansible's own rule: ``vault_encrypt_identity``, else the first
    secret. Raises StoreError if the run has no secret, or no secret with that id.
    """

    def __init__(self, secrets: Secrets, vault_id: t.Optional[str] = None) -> None:
        if not secrets:
            raise StoreError("This run has no vault secret, so no key could be stored.", remedy=_NO_VAULT)
        identity = vault_id or C.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
        try:
            chosen = match_encrypt_secret(list(secrets), encrypt_vault_id=identity)
        except AnsibleError:
            known = ", ".join(sorted({str(name) for name, _secret in secrets}))
            raise StoreError(
                f"This run has no vault secret with the id {identity!r}; it has {known}.", remedy=_NO_VAULT
            ) from None
        self._vault_id, self._secret = str(chosen[0]), chosen[1]
        self._told = bool(vault_id)
        self._secrets = list(secrets)
        # Encryption only computes. More threads than cores would delay the threads that call Backblaze.
        self._cores = threading.Semaphore(os.cpu_count() or 1)

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt a text. Each call uses a new salt, even if the configuration fixes one."""
        try:
            with self._cores:
                sealed = VaultLib(self._secrets).encrypt(
                    plaintext, secret=self._secret, vault_id=self._vault_id, salt=os.urandom(_SALT_BYTES)
                )
        except AnsibleError as exc:
            raise StoreError(f"Ansible Vault could not encrypt ({type(exc).__name__}).") from None
        return bytes(sealed)

    def open(self, sealed: bytes, path: str, *, alone: bool = False) -> bytes:
        """Decrypt a file. Raises StoreError if that fails. alone: only with the secret that this sealer encrypts
        with."""
        if not VaultLib.is_encrypted(sealed):
            raise StoreError(
                f"{path} is not an Ansible Vault file.", remedy="Move it away, or encrypt it with ansible-vault."
            )
        try:
            return bytes(VaultLib([(self._vault_id, self._secret)] if alone else self._secrets).decrypt(sealed))
        except AnsibleError:
            raise StoreError(
                f"{path} does not decrypt with the vault secrets of this run.",
                remedy="Give the run the vault password of that file.",
            ) from None

    def open_to_rewrite(self, sealed: bytes, path: str) -> tuple[bytes, Sealer]:
        """Decrypt a file, and return a sealer to write the file again.

        Like ``ansible-vault edit``, that sealer keeps the secret of the file and the id in its header, unless a
        vault_id was given.
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
        """Tell whether the secret that this sealer encrypts with also decrypts a file."""
        if len(self._secrets) == 1:
            return True
        try:
            self.open(sealed, "", alone=True)
        except StoreError:
            return False
        return True

    def prove(self) -> None:
        """Encrypt and decrypt a probe, so that no member is created whose key could not be stored."""
        probe = os.urandom(16)
        if self.open(self.seal(probe), "a probe") != probe:
            raise StoreError("Ansible Vault did not give back what it encrypted.")
