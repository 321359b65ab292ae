# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entries in the report of a move."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    """One key that was moved or left, and why. The key itself is not in it. email: empty for a whole file or Group.

    former: the file that held the key before the move.
    """

    email: str
    path: str
    message: str = ""
    former: str = ""
