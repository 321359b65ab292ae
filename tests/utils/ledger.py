# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the stand-in's ledger against the vault: is every key that was handed out stored, and does it decrypt?

Runs with any Python that has ansible-core, as a program or imported:

    python ledger.py URL VAULT_DIR PASSWORD_FILE
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import urllib.request

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

CREATE = "b2_create_group_member"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the two say about each other; every list is of addresses."""

    handed_out: int
    sealed: int
    # Handed out, and not in the vault as handed out.
    not_stored: list[str]
    # In the vault, and never handed out like that.
    not_handed_out: list[str]
    # An address with more than one account.
    doubled: list[str]

    @property
    def complete(self) -> bool:
        """Whether every key that was handed out is stored, and nothing else is."""
        return not (self.not_stored or self.not_handed_out or self.doubled)

    def __str__(self) -> str:
        verdict = (
            "every key is in the vault"
            if self.complete
            else f"NOT STORED {self.not_stored} NOT HANDED OUT {self.not_handed_out} DOUBLED {self.doubled}"
        )
        return f"keys handed out {self.handed_out}, keys sealed {self.sealed}: {verdict}"


def handed_out(url: str) -> list[dict[str, str]]:
    """Return the ledger's entries of created members."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"{url}/_standin/ledger", timeout=30
    ) as answer:
        entries = json.load(answer)
    return [entry for entry in entries if entry["operation"] == CREATE]


def sealed(vault_dir: str, password: bytes) -> dict[str, dict[str, str]]:
    """Return what each vault file holds, by address; a file that does not decrypt raises."""
    vault = VaultLib([("default", VaultSecret(password))])
    found = {}
    for name in sorted(os.listdir(vault_dir)) if os.path.isdir(vault_dir) else ():
        path = os.path.join(vault_dir, name, "b2_vault.yml")
        if os.path.exists(path):
            with open(path, "rb") as file:
                found[name] = yaml.safe_load(vault.decrypt(file.read()))
    return found


def compare(url: str, vault_dir: str, password: bytes) -> Comparison:
    """Compare the ledger of the stand-in with the files of a vault directory."""
    entries = handed_out(url)
    files = sealed(vault_dir, password)
    given = {(entry["email"], entry["account_id"], entry["key_id"], entry["key"]) for entry in entries}
    kept = {
        (email, variables["b2_account_id"], variables["b2_application_key_id"], variables["b2_application_key"])
        for email, variables in files.items()
    }
    emails = [entry["email"].lower() for entry in entries]
    return Comparison(
        handed_out=len(entries),
        sealed=len(files),
        not_stored=sorted(entry[0] for entry in given - kept),
        not_handed_out=sorted(entry[0] for entry in kept - given),
        doubled=sorted({email for email in emails if emails.count(email) > 1}),
    )


def main() -> int:
    """Compare, print one line, and end with 0 only if every key is stored."""
    url, vault_dir, password_file = sys.argv[1:]
    with open(password_file, "rb") as file:
        result = compare(url, vault_dir, file.read().strip())
    print(result)
    return 0 if result.complete else 1


if __name__ == "__main__":
    sys.exit(main())
