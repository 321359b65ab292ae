# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Use the sandbox as a reader of the guides does: its files, and every fault."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from project import PATIENCE

SANDBOX = pathlib.Path(__file__).resolve().parents[1] / "sandbox"
sys.path.insert(0, str(SANDBOX))

import fault  # noqa: E402  # lies beside the sandbox, which is no package

ADDRESS = "new-{}@customers.example.com"
#: Each fault with its argument, and what a run for one more member says then. An address is the new member's.
SAID = {
    "answer-lost": ("", "key_lost"),
    "group-full": ("", "refused, too_many_members"),
    "address-taken": (ADDRESS, "refused, invalid_email"),
    "refused": ("method_failure", "refused, method_failure"),
    "created-elsewhere": (ADDRESS, "key_missing"),
    "left": ("ada@customers.example.com", "created: 1"),
    "throttled": ("", "created: 1"),
    "slow": ("", "created: 1"),
    "down": ("", "service_unavailable"),
    "listed-late": ("", "created: 1"),
    "no-phone": ("", "refused, invalid_sms_phone"),
    "not-enabled": ("", "not enabled for the Partner API"),
    "none": ("", "created: 1"),
}


def test_the_sandbox_holds_what_it_welcomes_with_and_each_fault_does_what_it_says():
    assert list(SAID) == [one.name for one in fault.FAULTS]
    commands = [
        "fault",
        "ansible-inventory -i hosting.b2_group_members.yml --graph",
        "ansible-vault view host_vars/ada@customers.example.com/b2_vault.yml",
    ]
    for name, (argument, _said) in SAID.items():
        variables = json.dumps({"b2_members_list": [ADDRESS.format(name)], "b2_members_max_retries": 1})
        commands += [
            f"echo '===== {name}'",
            f"fault {name} {argument.format(name)}",
            f"ansible-playbook community.backblaze.provision -e @members.yml -e '{variables}' 2>&1",
            "fault none",
        ]
    process = subprocess.run(
        [sys.executable, str(SANDBOX / "sandbox.py")],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    first, *runs = process.stdout.split("===== ")
    assert all(one.name in first for one in fault.FAULTS)
    assert first.count("@region_") >= 4 and "b2_application_key: " in first, first + process.stderr
    assert len(runs) == len(SAID), process.stderr
    for run in runs:
        said = SAID[run.split("\n", 1)[0]][1]
        assert said in run, run
