# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured or made ready inside one process.

    python probe.py encrypt | write DIRECTORY | call | list GROUP... | hosts INVENTORY FILE

Prints JSON. The last three take realm and credentials from the environment and the collection from
ANSIBLE_COLLECTIONS_PATH.
"""

from __future__ import annotations

import base64
import http.client
import json
import marshal
import os
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

REPEATS = 100
KEY = "K004" + "StandInKeyOfTwentySevenChar"


def mean_seconds(once: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return what one call costs, after one that is not counted."""
    once()
    started = time.perf_counter()
    for _turn in range(repeats):
        once()
    return (time.perf_counter() - started) / repeats


def encrypt() -> dict[str, Any]:
    """Time ansible-core's own encryption of a text of a key's size."""
    from ansible.parsing.vault import VaultLib, VaultSecret

    secret = VaultSecret(b"a vault password of the usual length")
    vault = VaultLib([("default", secret)])
    return {"seconds": mean_seconds(lambda: vault.encrypt(KEY, secret=secret))}


def write(directory: str) -> dict[str, Any]:
    """Time what a small file costs that has to survive a power cut: write, fsync, rename, fsync of the directory."""
    temporary, final = os.path.join(directory, "probe.new"), os.path.join(directory, "probe")

    def once() -> None:
        with open(temporary, "wb", buffering=0) as file:
            file.write(KEY.encode() * 40)
            os.fsync(file.fileno())
        os.rename(temporary, final)
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    return {"seconds": mean_seconds(once)}


def call() -> dict[str, Any]:
    """Time a call over a connection that is kept, with next to nothing around it: the latency as it really is."""
    credentials = f"{os.environ['B2_APPLICATION_KEY_ID']}:{os.environ['B2_APPLICATION_KEY']}".encode()
    headers = {"Authorization": f"Basic {base64.b64encode(credentials).decode()}", "User-Agent": "bench"}
    connection = http.client.HTTPConnection(urlsplit(os.environ["B2_ENVIRONMENT"]).netloc)

    def once() -> None:
        connection.request("GET", "/b2api/v3/b2_authorize_account", headers=headers)
        connection.getresponse().read()

    return {"seconds": mean_seconds(once, 20)}


def listing(*group_ids: str) -> dict[str, Any]:
    """Time the list calls alone: what the client needs for all members of the Groups, once it is authorized and
    connected."""
    sys.path[:0] = os.environ["ANSIBLE_COLLECTIONS_PATH"].split(os.pathsep)
    from ansible_collections.community.backblaze.plugins.module_utils._options import CONNECTION_SPEC, connect

    options = {name: spec.get("default") for name, spec in CONNECTION_SPEC.items()}
    options.update(
        realm=os.environ["B2_ENVIRONMENT"],
        application_key_id=os.environ["B2_APPLICATION_KEY_ID"],
        application_key=os.environ["B2_APPLICATION_KEY"],
    )
    client = connect(options)
    client.authorize()
    started = time.perf_counter()
    members = client.members_of(group_ids)
    return {"seconds": time.perf_counter() - started, "members": len(members)}


def hosts(inventory: str, path: str) -> dict[str, Any]:
    """Leave the variables of each host of an inventory in a file, as values that nobody marked."""
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader

    started = time.perf_counter()
    init_plugin_loader()
    loaded = InventoryManager(DataLoader(), sources=[inventory]).get_hosts()
    variables = {
        host.name: {name: value for name, value in host.vars.items() if name.startswith("b2_")} for host in loaded
    }
    with open(path, "wb") as file:
        marshal.dump(json.loads(json.dumps(variables)), file)
    return {"seconds": time.perf_counter() - started, "hosts": len(variables)}


def main() -> None:
    """Measure what is named."""
    what, *arguments = sys.argv[1:]
    probes: dict[str, Callable[..., dict[str, Any]]] = {
        "encrypt": encrypt,
        "write": write,
        "call": call,
        "list": listing,
        "hosts": hosts,
    }
    measured = probes[what](*arguments)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
