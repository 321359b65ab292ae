# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Call Backblaze inside one account, with one of its application keys.

A call is a method of ``Storage`` that gives ``Caller.operate`` a ``Service`` and a ``Handling``, as the methods of
``Partner`` do.
"""

from __future__ import annotations

from ansible_collections.community.backblaze.plugins.module_utils._api.calls import Caller
from ansible_collections.community.backblaze.plugins.module_utils._errors import WRONG_KEY_CODES, ApiError


class Storage:
    """Make calls inside one account. Safe to use from many threads."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def opens(self) -> str:
        """Return the id of the account that the application key opens. Empty if Backblaze says that the key is invalid.

        Any other refusal says nothing about the key. It is about the account, and is raised.
        """
        try:
            return self._caller.authorize().account_id
        except ApiError as exc:
            if exc.code in WRONG_KEY_CODES:
                return ""
            raise
