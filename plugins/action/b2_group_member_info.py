# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""List members: with vault_dir compare them with the stored keys on the controller, else run the plain module."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBER_INFO_RULES, MEMBER_INFO_SPEC
from ansible_collections.community.backblaze.plugins.plugin_utils._action import (
    options_of,
    run_action,
    run_without_vault_dir,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._tasks import audit_members


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """Run the task. With vault_dir the task's host sends encrypted keys only, if the keys are there."""

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Run the task."""
        super().run(tmp, task_vars)
        if self._task.args.get("vault_dir") is None:
            module = "community.backblaze.b2_group_member_info"
            return run_without_vault_dir(
                self, MEMBER_INFO_SPEC, lambda: self._execute_module(module_name=module, task_vars=task_vars)
            )
        return run_action(
            self, lambda: audit_members(self, options_of(self, MEMBER_INFO_SPEC, **MEMBER_INFO_RULES), task_vars)
        )
