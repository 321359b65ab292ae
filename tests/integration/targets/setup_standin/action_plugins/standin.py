# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start, change and stop a stand-in for the Partner API.

An action runs in the process of the task. A module would start another Python, which takes half a second each time.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import tempfile

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "utils"))

from standin import Control, start_process  # lies with the other helpers of the tests, which are no package


def start(groups):
    """Start a stand-in on a free port; return the content of its ready file. The stand-in ends with this run of
    Ansible, and after ten minutes."""
    # The process of a task is a child of ansible-playbook.
    arguments = ["--max-seconds", "600", "--parent", str(os.getppid())]
    for group in groups:
        arguments += ["--group", str(group)]
    with tempfile.TemporaryDirectory(prefix="standin.") as directory:
        return start_process(directory, *arguments, start_new_session=True)[1]


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        if "groups" in args:
            result["ansible_facts"] = {"standin": start(args["groups"])}
        elif "post" in args:
            control = Control(args["url"])
            result["answers"] = [control.control(change["verb"], change["body"]) for change in args["post"]]
        else:
            os.kill(int(args["stop"]), signal.SIGTERM)
        return result
