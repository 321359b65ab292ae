# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Use the sandbox as a reader of the guides does: its files, the shell for a guide, and every fault."""

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
    "another-key": ("", "key_lost"),
    "address-taken": (ADDRESS, "refused, invalid_email"),
    "refused": ("method_failure", "refused, method_failure"),
    "group-full": ("", "refused, too_many_members"),
    "no-phone": ("", "refused, invalid_sms_phone"),
    "not-enabled": ("", "not enabled for the Partner API"),
    "created-elsewhere": (ADDRESS, "key_missing"),
    "left": ("ada@customers.example.com", "created: 1"),
    "key-deleted": ("ben@customers.example.com", "key_dead"),
    "throttled": ("", "created: 1"),
    "slow": ("", "created: 1"),
    "down": ("", "service_unavailable"),
    "listed-late": ("", "created: 1"),
    "none": ("", "created: 1"),
}
#: Variables of the role that a fault needs to be seen.
VARIABLES = {"key-deleted": {"b2_members_list": ["ben@customers.example.com"], "b2_members_verify_keys": True}}


def use(directory, *commands):
    """Pipe commands into a sandbox in this directory; return its output and its stderr."""
    process = subprocess.run(
        [sys.executable, str(SANDBOX / "sandbox.py"), str(directory)],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return process.stdout, process.stderr


def provision(name):
    """Return the command that runs the task of the sandbox for one more member, or with the variables of a fault."""
    variables = {"b2_members_list": [ADDRESS.format(name)], "b2_members_max_retries": 1, **VARIABLES.get(name, {})}
    return f"ansible-playbook community.backblaze.provision -e @members.yml -e '{json.dumps(variables)}' 2>&1"


def test_each_fault_does_what_the_sandbox_says(tmp_path):
    assert list(SAID) == [one.name for one in fault.FAULTS]
    commands = [
        line
        for name, (argument, _said) in SAID.items()
        for line in (
            f"echo '===== {name}'",
            f"fault {name} {argument.format(name)}",
            provision(name),
            "fault none",
        )
    ]
    output, errors = use(tmp_path / "sandbox", *commands)
    runs = output.split("===== ")[1:]
    assert len(runs) == len(SAID), output + errors
    for run in runs:
        said = SAID[run.split("\n", 1)[0]][1]
        assert said in run, run


def test_the_sandbox_has_what_it_welcomes_with_and_a_guide_begins_with_nothing(tmp_path):
    output, errors = use(
        tmp_path / "sandbox",
        "fault",
        "ansible-inventory -i hosting.b2_group_members.yml --graph",
        "ansible-vault view host_vars/ada@customers.example.com/b2_vault.yml",
        "guide",
        "ls -A; echo '===== in the guide'; ls -A ~; echo email > list.csv",
        "ansible-playbook community.backblaze.provision -e b2_members_group_name=hosting -e b2_members_vault_dir=keys"
        """ -e '{"b2_members_list": ["ada@customers.example.com"]}'""",
        "exit",
        "echo '===== after the guide'; ls",
    )
    before, guide, after = output.split("===== ")
    assert all(one.name in before for one in fault.FAULTS)
    assert before.count("@region_") == 4 and "b2_application_key: " in before, before + errors
    assert before.rstrip().endswith("guide-1."), "the directory of a guide is not empty"
    assert ".vault-password" in guide and "created: 1" in guide, guide + errors
    assert "host_vars" in after and "list.csv" not in after
