# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Remember the account and the key id in each key file by the digest of the file, to decrypt only changed files.

To decrypt a key file takes some milliseconds by design, and five thousand files take half a minute. The index is a
vault file itself, ``<vault_dir>/.b2_members/.index``: only a user with the vault secret of the key files can read or
write the index. It holds no key, and a run without the index only takes longer.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import DIRECTORY, exists, get, opened, replace
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import INDEX_NAME, STATE_NAME
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer

_DIGEST_BYTES = 16


class Known(t.NamedTuple):
    """A key file that was opened with the secret of the index."""

    digest: str
    account_id: str
    key_id: str
    group_id: str


class Index:
    """The index of one vault directory. Safe to use from many threads."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._known: dict[str, Known] = {}
        # None if it was not read yet.
        self._saved: t.Optional[dict[str, Known]] = None

    def load(self, root: int) -> None:
        """Read the index in an open vault directory once. An index that cannot be read counts as empty."""
        if self._saved is not None:
            return
        try:
            with opened(root, STATE_NAME, DIRECTORY) as state:
                entries = json.loads(self._sealer.open(get(state, INDEX_NAME), INDEX_NAME, alone=True))
            self._saved = {email: Known(*(str(field) for field in entry)) for email, entry in entries.items()}
        except (OSError, StoreError, ValueError, TypeError, AttributeError):
            self._saved = {}
        self._known = {**self._saved, **self._known}

    def keep(self, emails: t.Collection[str]) -> None:
        """Forget all files but those of some addresses."""
        there = frozenset(emails)
        self._known = {email: known for email, known in self._known.items() if email in there}

    def get(self, email: str, sealed: bytes) -> t.Optional[Known]:
        """Return what is known of a file; None if its bytes have changed."""
        known = self._known.get(email)
        return known if known and known.digest == _digest(sealed) else None

    def put(self, email: str, sealed: bytes, key: StoredKey) -> None:
        """Note the key of a file that opens with the secret of the index alone."""
        self._known[email] = Known(_digest(sealed), key.account_id, key.key_id, key.group_id)

    def save(self, root: int, modes: Modes = PRIVATE) -> None:
        """Write the index into an open vault directory if it has changed."""
        if self._known == self._saved:
            return
        with opened(root, STATE_NAME, DIRECTORY) as state:
            like = os.lstat(INDEX_NAME, dir_fd=state) if exists(state, INDEX_NAME) else None
            replace(state, INDEX_NAME, self._sealer.seal(json.dumps(self._known).encode()), like, modes=modes)
            os.fsync(state)
        self._saved = dict(self._known)


def _digest(sealed: bytes) -> str:
    return hashlib.blake2b(sealed, digest_size=_DIGEST_BYTES).hexdigest()
