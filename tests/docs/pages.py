# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a page's reader has before the page begins, where the page itself has no room to say so."""

from __future__ import annotations

import json
import pathlib
import subprocess
import typing as t

from blocks import Block
from story import Story

CUSTOMERS = "email,region\nada@customers.example.com,eu-central\nben@customers.example.com,\n"


def member_info(story: Story) -> None:
    """Alice is in the Group, and her key is stored."""
    _provision(story, members=["alice@customers.example.com"])


def member(story: Story) -> None:
    """Cleo was created by other means, and her key is known."""
    cleo = story.server.add_member("hosting", "cleo@customers.example.com")
    story.variables = {"cleo_key_id": cleo["applicationKeyId"], "cleo_key": cleo["applicationKey"]}


def members(story: Story) -> None:
    """Write two lists. Cleo was created by other means, and her key is known."""
    story.write("customers.csv", CUSTOMERS)
    story.write("hosting.csv", CUSTOMERS)
    cleo = story.server.add_member("hosting", "cleo@customers.example.com")
    # Who else has these, has them by ssh.
    repository = story.scratch / "keys.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    places = {"key_host": "localhost", "store": str(story.scratch / "store"), "key_repository": str(repository)}
    story.variables = {"cleo_key_id": cleo["applicationKeyId"], "cleo_key": cleo["applicationKey"], **places}


def layout(story: Story) -> None:
    """The customers of the list have their keys in host_vars."""
    story.write("customers.csv", CUSTOMERS)
    _provision(story, members_file="customers.csv")


def inventory(story: Story) -> None:
    """Each Group has a member."""
    for group in ("hosting", "resale"):
        story.server.add_member(group, f"alice@{group}.example.com", region="us-east")


def _provision(story: Story, **wanted: t.Any) -> None:
    task = {"community.backblaze.b2_group_members": {"group_name": "hosting", "vault_dir": "host_vars", **wanted}}
    story.tell([Block(pathlib.Path(__file__), 1, "yaml", json.dumps([task]))])


#: By the page's path within the repository.
PREPARED: dict[str, t.Callable[[Story], None]] = {
    "plugins/modules/b2_group_member.py": member,
    "plugins/modules/b2_group_member_info.py": member_info,
    "plugins/modules/b2_group_members.py": members,
    "plugins/modules/b2_vault_layout.py": layout,
    "plugins/inventory/b2_group_members.py": inventory,
}
