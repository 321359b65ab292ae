# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open a shell with the stand-in for Backblaze, credentials, a vault password, an inventory and twelve members.

Everything is in .build/sandbox, or in a new directory that the first argument names. Each shell has a stand-in of its
own, which ends with the shell. Commands can also be piped in, one a line.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "utils"))

import standin  # noqa: E402  # lies beside the other helpers of the tests

#: The master key that the stand-in accepts. The guides print it.
KEY_ID = "0a1b2c3d4e5f"
KEY = "K004YourOwnMasterApplicationKey"
#: The directory of the commands of the sandbox in a home directory.
COMMANDS = ".commands"
#: The Groups of the guides.
GROUPS = {"hosting": "4a48fe8875c6214145260818", "resale": "5b59af9986d7325256371929"}

WELCOME = """
A sandbox with a stand-in for Backblaze. Nothing here reaches the real service.

  members.yml                       12 members of the Group hosting; their keys are sealed in host_vars
  hosting.b2_group_members.yml      the inventory
  guide                             opens a shell for a guide, with an empty directory and empty Groups
  fault                             lists the faults. Cause one with its name: fault answer-lost

Try:
  ansible-playbook community.backblaze.provision -e @members.yml
  ansible-inventory -i hosting.b2_group_members.yml --graph
  ansible-vault view host_vars/ada@customers.example.com/b2_vault.yml

Leave with exit. The files stay in {work} until the next sandbox.
"""
WELCOME_TO_GUIDE = """
Follow a guide here from its first example. The directory and the Groups hosting and resale are empty. The master key
and a vault password are set, and the collection is installed. Leave with exit. The files stay in {work}.
"""


def environment(home: Path, url: str) -> dict[str, str]:
    """Return the environment of a reader of the guides: the master key, a vault password, and an empty home directory.

    Nothing else of the caller's configuration of Ansible and Backblaze is in it.
    """
    dropped = ("ANSIBLE_", "B2_", "XDG_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(dropped)},
        "ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"],
        "ANSIBLE_VAULT_PASSWORD_FILE": str(home / ".vault-password"),
        # For hosts that this machine stands for: the Python that a search finds may be one that cannot run.
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "B2_ENVIRONMENT": url,
        "B2_APPLICATION_KEY_ID": KEY_ID,
        "B2_APPLICATION_KEY": KEY,
        "HOME": str(home),
        "PATH": f"{home / COMMANDS}{os.pathsep}{os.environ['PATH']}",
    }


def make_home(home: Path) -> None:
    """Create a home directory with a new vault password, and with the commands of the sandbox."""
    home.mkdir()
    (home / COMMANDS).mkdir()
    for name, call in {"fault": [HERE / "fault.py"], "guide": [HERE / "sandbox.py", "--guide"]}.items():
        command = home / COMMANDS / name
        command.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, [sys.executable, *call]))} "$@"\n', encoding="utf-8")
        command.chmod(0o755)
    password = home / ".vault-password"
    password.touch(0o600)
    password.write_text(secrets.token_urlsafe(24) + "\n", encoding="utf-8")


def open_shell(work: Path, home: Path, prompt: str, welcome: str, *provision: str) -> int:
    """Run a shell in a directory, with a stand-in of its own, to its end. provision: a command to run before it."""
    make_home(home)
    groups = [{"name": name, "id": group_id} for name, group_id in GROUPS.items()]
    with standin.StandIn(groups=groups, settings={"admin_key_id": KEY_ID, "admin_key": KEY}) as service:
        variables = {
            **environment(home, service.url),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        }
        if provision and (failed := _run(provision, work, variables)):
            return failed
        print(welcome.format(work=work), flush=True)
        rc = home / ".bashrc"
        rc.write_text(f"PS1={shlex.quote(prompt)}\n", encoding="utf-8")
        shell = ["bash", "--rcfile", str(rc), "-i"] if sys.stdin.isatty() else ["bash"]
        return subprocess.run(shell, cwd=work, env=variables, check=False).returncode


def _run(command: tuple[str, ...], work: Path, variables: Mapping[str, str]) -> int:
    """Run a command; print its output if it fails. Return its exit code."""
    done = subprocess.run(command, cwd=work, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout)
    return done.returncode


def main() -> int:
    """Open the shell with the twelve members, or one for a guide."""
    if sys.argv[1:] == ["--guide"]:
        # The home directory of the sandbox is that of the shell in which the command guide was typed.
        above = Path(os.environ["HOME"]).parent
        work = next(path for n in range(1, 1000) if not (path := above / f"guide-{n}").exists())
        work.mkdir()
        return open_shell(work, above / f"home-of-{work.name}", "(guide) $ ", WELCOME_TO_GUIDE)
    base = HERE.parents[1] / ".build" / "sandbox"
    if sys.argv[1:]:
        base = Path(sys.argv[1]).resolve()
    else:
        shutil.rmtree(base, ignore_errors=True)
    work = base / "members"
    shutil.copytree(HERE / "files", work)
    provision = ("ansible-playbook", "community.backblaze.provision", "-e", "@members.yml")
    return open_shell(work, base / "home", "(sandbox) $ ", WELCOME, *provision)


if __name__ == "__main__":
    sys.exit(main())
