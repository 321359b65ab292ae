# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open the store of a layout."""

from __future__ import annotations

import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, Modes
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.location import CONTROLLER, Location
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.group_vars import GroupVarsStore, groups_in
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.host_vars import HostVarsStore
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.store import Store

HOST_VARS = "host_vars"
GROUP_VARS = "group_vars"


def open_stores(
    layout: str, path: str, sealer: Sealer, location: Location = CONTROLLER, modes: Modes = PRIVATE
) -> t.Callable[[str], Store]:
    """Return a function that returns the store of a Group by its id. In host_vars all Groups share one store."""
    if layout == GROUP_VARS:
        return lambda group_id: GroupVarsStore(path, sealer, group_id, location, modes)
    shared = HostVarsStore(path, sealer, location, modes)
    return lambda group_id: shared


def open_store(layout: str, path: str, sealer: Sealer, group_id: str) -> Store:
    """Return the store of one Group on the controller."""
    return open_stores(layout, path, sealer)(group_id)


def stores_to_read(layout: str, path: str, sealer: Sealer, group_id: str = "") -> list[Store]:
    """Return the stores that may hold the key of a member; group_id: only that of this Group."""
    if layout == HOST_VARS or group_id:
        return [open_store(layout, path, sealer, group_id)]
    return [open_store(layout, path, sealer, one) for one in groups_in(path)]
