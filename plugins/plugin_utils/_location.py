# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a task's options to the place of its vault directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.plugin_utils._durable import prove_durable
from ansible_collections.community.backblaze.plugins.plugin_utils._elsewhere import Depot, Elsewhere
from ansible_collections.community.backblaze.plugins.plugin_utils._input import plain
from ansible_collections.community.backblaze.plugins.plugin_utils._target import MODULE, Target

_COPY = "vault"

TaskVars = t.Mapping[str, t.Any]


@contextlib.contextmanager
def elsewhere(action: ActionBase, options: t.Mapping[str, t.Any], task_vars: TaskVars, lost: t.Callable[[str], None]) -> t.Iterator[Elsewhere]:
    """Give the place of a vault directory that is not on the controller, with a copy of it that goes at the end.

    lost: see Elsewhere. Raises OptionError where the options cannot be, and StoreError where the place would not outlive this job.
    """
    # As it was written: what the option's type makes of ~ and $ holds on the controller.
    vault_dir = str(plain(action._task.args["vault_dir"]))
    with private_directory() as directory:
        yield Elsewhere(os.path.join(directory, _COPY), _target(action, options, task_vars, vault_dir), lost)


@contextlib.contextmanager
def private_directory() -> t.Iterator[str]:
    """Make a directory that nobody else can look into, and remove it at the end; if this process is killed, Ansible's own parent process does."""
    path = tempfile.mkdtemp(prefix="b2_vault_", dir=C.DEFAULT_LOCAL_TMP)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _target(action: ActionBase, options: t.Mapping[str, t.Any], task_vars: TaskVars, vault_dir: str) -> Depot:
    if not vault_dir.startswith("/") or ".." in vault_dir.split("/"):
        raise OptionError(f"vault_dir {vault_dir} is not an absolute path without .., which it has to be with vault_location: target.")
    # "/" twice at the beginning is something else to normpath.
    path = os.path.normpath(f"/{vault_dir.lstrip('/')}")
    if action._connection.transport == "local" and not options.get("vault_dir_is_durable"):
        # Then the target is where this runs.
        prove_durable("vault_dir", path)

    # The same for each message: which Python there is on the target is found out once.
    variables = dict(task_vars)

    def execute(arguments: dict[str, t.Any]) -> t.Mapping[str, t.Any]:
        result: t.Mapping[str, t.Any] = action._execute_module(module_name=MODULE, module_args=arguments, task_vars=variables)
        return result

    return Target(str(action._task.delegate_to or task_vars.get("inventory_hostname") or "the target"), path, execute)
