# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start, change and stop a stand-in for the Partner API.

An action runs in the process of the task. A module would start another Python, which takes half a second each time.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from ansible.plugins.action import ActionBase

SERVER = pathlib.Path(__file__).resolve().parents[4] / "utils" / "standin.py"


def start(groups):
    """Start a stand-in on a free port; return what its ready file holds. It ends with this run of Ansible, and after
    ten minutes."""
    with tempfile.TemporaryDirectory(prefix="standin.") as directory:
        ready = pathlib.Path(directory, "ready")
        command = [sys.executable, str(SERVER), "--ready-file", str(ready), "--max-seconds", "600"]
        # The process of a task is a child of ansible-playbook.
        command += ["--parent", str(os.getppid())]
        for group in groups:
            command += ["--group", group]
        null = subprocess.DEVNULL
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
        deadline = time.monotonic() + 30
        while not ready.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("The stand-in did not start in 30 seconds.")
            time.sleep(0.02)
        return json.loads(ready.read_text())


def post(url, verb, body):
    """Send one change to the control path of the stand-in."""
    request = urllib.request.Request(
        f"{url}/_standin/{verb}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    # A proxy in the environment is not meant for a loopback address.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        return json.load(response)


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        if "groups" in args:
            result["ansible_facts"] = {"standin": start([str(group) for group in args["groups"]])}
        elif "post" in args:
            result["answers"] = [post(args["url"], change["verb"], change["body"]) for change in args["post"]]
        else:
            os.kill(int(args["stop"]), signal.SIGTERM)
        return result
