# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Choose the location of a vault directory by the options of a task."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE
from ansible_collections.community.backblaze.plugins.plugin_utils._ansible import path_of, plain, start_of
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.durable import prove_durable
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git import Repository
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_command import without_userinfo
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_lease import LOCK_BRANCH
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Remote
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote_copy import RemoteCopy
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.target import MODULE, Target

# Git takes a text of this form for an address, and any other text for a path.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]+:")
# Stricter than git, which accepts most other characters as well.
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_LOCAL_SCHEME = "file://"
_LOCAL_CONNECTIONS = ("local", "ansible.builtin.local")

TaskVars = t.Mapping[str, t.Any]


def controller_path(action: ActionBase, path: str) -> str:
    """Return a path on the controller, see path_of."""
    return path_of(action._loader, path)


def made_at(action: ActionBase, option: str, given: str) -> str:
    """Return a warning if a relative path names a new directory on the controller, else nothing."""
    path = controller_path(action, given)
    if os.path.isabs(os.path.expanduser(given)) or os.path.lexists(path):
        return ""
    start, what = start_of(action._loader)
    made = "would be created" if action._task.check_mode else "is created"
    return (
        f"The directory {path} is new, and {made} for the keys: {option} {given} is a relative path, "
        f"which starts at {os.path.abspath(start)}, {what}. If this is not the right directory, give an absolute path."
    )


def _local_path(repository: str) -> str:
    """Return the path of a repository on the controller, also from a file:// URL."""
    if not repository.startswith(_LOCAL_SCHEME):
        return repository
    host, slash, path = repository.removeprefix(_LOCAL_SCHEME).partition("/")
    if host not in ("", "localhost") or not slash:
        raise OptionError(
            f"vault_git_repo {without_userinfo(repository)} names a path on another machine, which git cannot read.",
            remedy="Use ssh:// or https:// for another machine, or file:/// and an absolute path for the controller.",
        )
    return f"/{path}"


@contextlib.contextmanager
def remote_copy(
    action: ActionBase, options: t.Mapping[str, t.Any], task_vars: TaskVars, lost: t.Callable[[str], None]
) -> t.Iterator[RemoteCopy]:
    """Yield the remote copy of a vault directory that is not on the controller, and remove it at the end.

    lost: see RemoteCopy. Raises OptionError for invalid options, and StoreError if the keys may be lost with this job.
    """
    # As the user wrote it: the option's type path would replace ~ and $ by values of the controller.
    vault_dir = str(plain(action._task.args["vault_dir"]))
    # If this process is killed, Ansible's parent process removes the directory.
    with tempfile.TemporaryDirectory(
        prefix="b2_vault_", dir=C.DEFAULT_LOCAL_TMP, ignore_cleanup_errors=True
    ) as directory:
        if options["vault_location"] == "git":
            remote: Remote = _repository(action, options, directory, vault_dir)
        else:
            remote = _target(action, options, task_vars, vault_dir)
        yield RemoteCopy(os.path.join(directory, "vault"), remote, lost)


def _target(action: ActionBase, options: t.Mapping[str, t.Any], task_vars: TaskVars, vault_dir: str) -> Remote:
    if not vault_dir.startswith("/") or ".." in vault_dir.split("/"):
        raise OptionError(
            f"vault_dir {vault_dir} is not an absolute path without .., which vault_location: target requires.",
            remedy="Give the absolute path of the directory on the target host.",
        )
    # normpath keeps two slashes at the beginning.
    path = os.path.normpath(f"/{vault_dir.lstrip('/')}")
    _prove_not_controller(action, task_vars)
    if action._connection.transport == "local":
        # The target is this machine.
        prove_durable(f"vault_dir {path}", _promised(options))

    # The same dict for each message, in which Ansible keeps the Python interpreter that it found on the target.
    variables = dict(task_vars)

    return Target(
        str(action._task.delegate_to or task_vars.get("inventory_hostname") or "the target"),
        path,
        lambda arguments: action._execute_module(module_name=MODULE, module_args=arguments, task_vars=variables),
        options.get("vault_mode", PRIVATE),
    )


def _promised(options: t.Mapping[str, t.Any]) -> bool:
    """Tell whether the user promises that the directory outlives this job. An audit needs no promise: it only reads."""
    return bool(options.get("vault_dir_is_durable", True))


def _prove_not_controller(action: ActionBase, task_vars: TaskVars) -> None:
    """Raise OptionError if the delegated host is this machine only because the play, the task or -c says so."""
    host = str(action._task.delegate_to or "")
    if not host or host in C.LOCALHOST or action._connection.transport != "local":
        return
    # These are not the variables and keywords of plays and tasks, but extra variables are included.
    hosts = task_vars["hostvars"]
    own = hosts[host] if host in hosts else load_extra_vars(action._loader)
    if own.get("ansible_connection") not in _LOCAL_CONNECTIONS:
        raise OptionError(
            f"The keys are for {host}, but its connection is local: they would be on this machine and not on {host}.",
            remedy="Remove connection: local from the play and the task, and -c local from the command line. "
            f"If {host} is this machine, set ansible_connection: local as a variable of {host} in the inventory.",
        )


def _repository(action: ActionBase, options: t.Mapping[str, t.Any], directory: str, vault_dir: str) -> Remote:
    folder = os.path.normpath(vault_dir)
    if vault_dir.startswith("/") or folder.startswith("..") or ".git" in folder.split("/"):
        raise OptionError(
            f"vault_dir {vault_dir} is not a path within a repository, which vault_location: git requires.",
            remedy="Give a path that is relative to the root of the repository.",
        )
    repository = options["vault_git_repo"] or ""
    if not repository:
        raise OptionError("vault_git_repo is missing.", remedy="Name the repository for the keys.")
    if not repository.isprintable() or repository.startswith("-"):
        raise OptionError("vault_git_repo is not an address that git accepts.", remedy="Give a URL or a path.")
    if repository.startswith(_LOCAL_SCHEME) or not _ADDRESS.match(repository):
        path = controller_path(action, _local_path(repository))
        prove_durable(f"vault_git_repo {path}", _promised(options))
        repository = path
    message = options["vault_git_message"] or ""
    if not message.isprintable() or (message and not message.strip()):
        raise OptionError("vault_git_message is not one line of text.", remedy="Give the subject of a commit.")
    lock_branch = _branch(options, "vault_git_lock_branch") or LOCK_BRANCH
    branch = _branch(options, "vault_git_branch")
    return Repository(directory, repository, branch, "" if folder == "." else folder, message, lock_branch)


def _branch(options: t.Mapping[str, t.Any], option: str) -> str:
    """Return the value of an option for the name of a branch, empty if there is none. OptionError if it is invalid."""
    name = str(options[option] or "")
    invalid = ".." in name or re.search(r"\.(?:lock)?(?:/|$)", name) or name == "HEAD" or name.startswith("refs/")
    if name and (invalid or not _BRANCH.fullmatch(name)):
        raise OptionError(
            f"{option} {name!r} is not a valid name of a branch.",
            remedy="Use letters, digits and ._+- in its parts, slashes between them, and no refs/heads/ before it.",
        )
    return name
