# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move sealed keys from one layout to the other. The module of the same name has the documentation."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.community.backblaze.plugins.module_utils._options import VAULT_LAYOUT_SPEC
from ansible_collections.community.backblaze.plugins.plugin_utils._action import local_options_of, run_action
from ansible_collections.community.backblaze.plugins.plugin_utils._tasks import move_vault


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """Run the task. Nothing is sent to the task's host."""

    _requires_connection = False

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Run the task."""
        super().run(tmp, task_vars)
        return run_action(self, lambda: move_vault(self, local_options_of(self, VAULT_LAYOUT_SPEC)))
