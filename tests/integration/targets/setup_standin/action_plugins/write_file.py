# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write content to a file in the process of the task: ansible.builtin.copy starts two modules, of half a second
each."""

from __future__ import annotations

import os
import pathlib
import tempfile

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        dest = pathlib.Path(self._task.args["dest"])
        # A run that is killed leaves the old file or the whole new one.
        descriptor, name = tempfile.mkstemp(prefix=".write_file.", dir=dest.parent)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(str(self._task.args["content"]))
        os.replace(name, dest)
        return {**result, "changed": True, "dest": str(dest)}
