# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open a shell with the stand-in for Backblaze, credentials, a vault password, an inventory and twelve members.

Everything is in .build/sandbox. The stand-in ends with the shell. Commands can also be piped in, one a line.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "utils"))

import standin  # noqa: E402  # lies beside the other helpers of the tests

WELCOME = """
A sandbox with a stand-in for Backblaze. Nothing here reaches the real service.

  members.yml                       12 members of the Group hosting; their keys are sealed in host_vars
  hosting.b2_group_members.yml      the inventory
  fault                             lists the faults, such as: fault answer-lost

Try:
  ansible-playbook community.backblaze.provision -e @members.yml
  ansible-inventory -i hosting.b2_group_members.yml --graph
  ansible-vault view host_vars/ada@customers.example.com/b2_vault.yml

Leave with exit. The files stay in {work} until the next sandbox.
"""


def main() -> int:
    """Prepare the directory and the stand-in, create the members, and run the shell to its end."""
    work = ROOT / ".build" / "sandbox"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(HERE / "files", work)
    password = work / "vault-password"
    password.touch(0o600)
    password.write_text(secrets.token_urlsafe(24) + "\n")
    command = work / "bin" / "fault"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(HERE / "fault.py"))} "$@"\n')
    command.chmod(0o755)
    with standin.StandIn(groups=["hosting", "resale"]) as service:
        settings = standin.Settings()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"},
            "B2_ENVIRONMENT": service.url,
            "B2_APPLICATION_KEY_ID": settings.admin_key_id,
            "B2_APPLICATION_KEY": settings.admin_key,
            "ANSIBLE_VAULT_PASSWORD_FILE": str(password),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        }
        provision = ["ansible-playbook", "community.backblaze.provision", "-e", "@members.yml"]
        done = subprocess.run(provision, cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stdout)
            return done.returncode
        print(WELCOME.format(work=work), flush=True)
        shell = ["bash", "--rcfile", str(work / "bashrc"), "-i"] if sys.stdin.isatty() else ["bash"]
        return subprocess.run(shell, cwd=work, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
