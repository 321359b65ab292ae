# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create many members in one task and seal their keys. The module of the same name has the documentation."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._options import MEMBERS_RULES, MEMBERS_SPEC
from ansible_collections.community.backblaze.plugins.plugin_utils._action import options_of, run_action
from ansible_collections.community.backblaze.plugins.plugin_utils._ansible import path_of, secrets_of
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import (
    Entries,
    read_members,
    wanted_groups,
    wanted_members,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._run.report import shown
from ansible_collections.community.backblaze.plugins.plugin_utils._tasks import seal_groups, seal_members

MOST_WORKERS = 32


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not typed for subclassing
    """Run the task. The task's host receives encrypted keys only, if the vault directory is there."""

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Run the task."""
        super().run(tmp, task_vars)
        return run_action(self, lambda: self._provision(task_vars))

    def _provision(self, task_vars: t.Any) -> dict[str, t.Any]:
        options = options_of(self, MEMBERS_SPEC, **MEMBERS_RULES)
        if not 1 <= options["concurrency"] <= MOST_WORKERS:
            raise OptionError(f"concurrency is {options['concurrency']}, but has to be 1 to {MOST_WORKERS}.")
        if options["groups"] is not None:
            groups = wanted_groups(options["groups"], self._read_members)
            return shown(seal_groups(self, options, task_vars, groups), options["return_members"])
        file = options["members_file"]
        wanted = wanted_members(options["members"]) if file is None else wanted_members(*self._read_members(file))
        return shown(seal_members(self, options, task_vars, wanted)[0], options["return_members"])

    def _read_members(self, path: str) -> Entries:
        return read_members(path_of(self._loader, path), secrets_of(self._loader))
