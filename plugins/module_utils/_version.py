# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Define the version of the collection for the User-Agent. "make release" writes this file, along with galaxy.yml."""

from __future__ import annotations

VERSION = "0.1.0"
