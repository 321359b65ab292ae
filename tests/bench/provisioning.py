# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured of provisioning: our one task, the loops that it stands in for, and a run that finds nothing to
do."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import textwrap
import typing as t

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

import ledger
from measure import Failed, Measured, Site
from project import KEY, KEY_ID

#: How many keys of each run are decrypted and compared; that all files are there is looked at besides.
SAMPLE = 20


def addresses(count: int) -> list[str]:
    """Return that many addresses."""
    return [f"customer{number:05}@customers.example.com" for number in range(count)]


# What is run


def empty(site: Site, mode: str = "process") -> Measured:
    """A play with one task that does nothing: what any play costs."""
    play = site.write_play("empty", [{"name": "Nothing", "ansible.builtin.debug": {"msg": "nothing"}}])
    return site.measure("ansible-playbook", str(play), mode=mode)


def _fresh(site: Site) -> None:
    """Empty the vault directory, and the Group: the stand-in starts over."""
    shutil.rmtree(site.vault_dir, ignore_errors=True)
    site.server.reset()


def our_task(site: Site, count: int, concurrency: int) -> Measured:
    """Provision with one task b2_group_members."""
    _fresh(site)
    return _sealed(site, count, site.measure("ansible-playbook", str(_our_play(site, count, concurrency))))


def _our_play(site: Site, count: int, concurrency: int) -> pathlib.Path:
    # As the page of the module has it for long lists.
    (site.directory / "members.csv").write_text("\n".join(["email", *addresses(count), ""]))
    options = {
        "group_id": site.group_ids[0],
        "members_file": "members.csv",
        "vault_dir": "host_vars",
        "concurrency": concurrency,
    }
    return site.write_play("ours", [{"name": "Provision", "community.backblaze.b2_group_members": options}])


def module_loop(site: Site, count: int) -> Measured:
    """Provision with a loop over our own module for one member."""
    _fresh(site)
    options = {"group_id": site.group_ids[0], "email": "{{ item }}", "vault_dir": "host_vars"}
    play = site.write_play(
        "module_loop", [{"name": "Provision", "community.backblaze.b2_group_member": options, "loop": addresses(count)}]
    )
    return _sealed(site, count, site.measure("ansible-playbook", str(play)))


def uri_loop(site: Site, count: int) -> Measured:
    """Provision as it is done without a collection: a loop over uri, and ansible-vault encrypt_string for each key."""
    _fresh(site)
    site.vault_dir.mkdir()
    api = f"{site.url}/b2api/v3"
    authorize = {
        "url": f"{api}/b2_authorize_account",
        "url_username": KEY_ID,
        "url_password": KEY,
        "force_basic_auth": True,
    }
    body = {"adminAccountId": "{{ session.json.accountId }}", "groupId": site.group_ids[0], "memberEmail": "{{ item }}"}
    create = {
        "url": f"{api}/b2_create_group_member",
        "method": "POST",
        "headers": {"Authorization": "{{ session.json.authorizationToken }}"},
        "body_format": "json",
        "body": body,
    }
    seal = {
        "argv": [
            "ansible-vault",
            "encrypt_string",
            "--stdin-name",
            "b2_application_key",
            "--output",
            "host_vars/{{ item.item }}.yml",
        ],
        "stdin": "{{ item.json.applicationKey }}",
        "stdin_add_newline": False,
    }
    tasks = [
        {"name": "Authorize", "ansible.builtin.uri": authorize, "register": "session", "no_log": True},
        {
            "name": "Create",
            "ansible.builtin.uri": create,
            "loop": addresses(count),
            "register": "created",
            "no_log": True,
        },
        {"name": "Seal", "ansible.builtin.command": seal, "loop": "{{ created.results }}", "no_log": True},
    ]
    measured = site.measure("ansible-playbook", str(site.write_play("uri_loop", tasks)))
    _check_keys(site, count, {path.stem: path for path in site.vault_dir.glob("*.yml")}, _encrypted_string)
    return measured


class Converged:
    """A Group whose members are all there, keys and all."""

    def __init__(self, site: Site, count: int) -> None:
        self._site = site
        our_task(site, count, 32)
        self._play = _our_play(site, count, 16)
        self._files = self._look()
        # The first run is not counted; what it asks of Backblaze is what every other one asks.
        self._calls: t.Mapping[str, int] = {}
        self._calls = self.run().calls

    def run_without_index(self) -> Measured:
        """The same where the index is gone that says which files are known: every one of them is decrypted."""
        index = self._site.vault_dir / ".b2_members" / ".index"
        index.unlink()
        measured = self.run()
        if not index.exists():
            raise Failed("the converged run did not write the index again")
        return measured

    def run(self, mode: str = "process") -> Measured:
        """Run the task that has nothing to do, and see that it did nothing."""
        measured = self._site.measure("ansible-playbook", str(self._play), mode=mode)
        if "ok=1 " not in measured.output or "changed=0 " not in measured.output or self._look() != self._files:
            raise Failed(f"the converged run changed something:\n{measured.output}")
        if self._calls and self._calls != measured.calls:
            raise Failed(f"the converged run made other calls than the one before: {self._calls}, {measured.calls}")
        return measured

    def _look(self) -> dict[str, tuple[int, int]]:
        files = self._site.vault_dir.glob("*/b2_vault.yml")
        return {path.parent.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


# Whether it did its work


def _sealed(site: Site, count: int, measured: Measured) -> Measured:
    files = {path.parent.name: path for path in site.vault_dir.glob("*/b2_vault.yml")}
    _check_keys(site, count, files, lambda vault, content: yaml.safe_load(vault.decrypt(content))["b2_application_key"])
    return measured


def _encrypted_string(vault: VaultLib, content: bytes) -> str:
    _name, _tag, block = content.decode().partition("!vault |\n")
    return str(vault.decrypt(textwrap.dedent(block).encode()).decode())


def _check_keys(
    site: Site, count: int, files: t.Mapping[str, pathlib.Path], read: t.Callable[[VaultLib, bytes], str]
) -> None:
    """Hold the stand-in's ledger against what is on disk: every member once, a file for each, and in some of them the
    very key."""
    given = {entry["email"]: entry["key"] for entry in ledger.handed_out(site.url) if entry["delivered"]}
    created = site.server.state()["calls"].get(ledger.CREATE, 0)
    wanted = set(addresses(count))
    if created != count or set(given) != wanted or set(files) != wanted:
        raise Failed(
            f"{count} members were to be made: {created} creates, {len(given)} keys handed out, {len(files)} files"
        )
    vault = VaultLib([("default", VaultSecret(site.password.encode()))])
    for email in random.sample(sorted(wanted), min(SAMPLE, count)):
        if read(vault, files[email].read_bytes()) != given[email]:
            raise Failed(f"{files[email]} does not hold the key that was handed out for {email}")


def cores() -> int:
    """Return how many cores there are for us."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
