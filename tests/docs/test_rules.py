# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules for examples hold: what is wrong in a page is found, and what is right is run."""

from __future__ import annotations

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "utils"))

import blocks  # noqa: E402  # these lie beside this file, which is in no package
import standin  # noqa: E402
import story  # noqa: E402


def tell(directory, name, text):
    """Write a page and do all that it shows; return the story."""
    page = directory / name
    page.write_text(text, encoding="utf-8")
    with standin.StandIn(settings={"admin_key": story.KEY}) as server:
        told = story.Story(directory, standin.Control(server.url))
        told.tell(blocks.find(page))
    return told


def console(*lines, before=""):
    return f"Title\n=====\n\n{before}.. code-block:: console\n\n" + "".join(f"   {line}\n" for line in lines)


def yaml(*lines, before="", options=""):
    return f"Title\n=====\n\n{before}.. code-block:: yaml\n{options}\n" + "".join(f"   {line}\n" for line in lines)


GOOD_TASK = ("- name: Ask", "  community.backblaze.b2_group_info:")
NO_SUCH_GROUP = ("- name: Ask", "  community.backblaze.b2_group_member_info:", "    group_name: nobody has it")
RETURNED_KEY = (
    "- community.backblaze.b2_group_member: {group_name: hosting, email: a@x.example}",
    "  register: made",
    "- ansible.builtin.debug: {var: made}",
)

WRONG = {
    "a task that fails": ("p.rst", yaml(*NO_SUCH_GROUP), r"p\.rst:6: ended with 2(.|\n)*\.line-6\.yml:6"),
    "a play that fails": (
        "p.rst",
        yaml("- hosts: localhost", "  tasks:", "    - ansible.builtin.fail:"),
        r"p\.rst:6: ended with 2",
    ),
    "a command that fails": ("p.rst", console("$ true", "$ false"), r"p\.rst:7: ended with 1"),
    "a script whose first line fails": ("p.md", "```shell\nfalse\ntrue\n```\n", r"p\.md:2: ended with 1"),
    "another output": (
        "p.rst",
        console("$ echo one; echo two", "one", "three"),
        r"p\.rst:6: says something else(.|\n)*three(.|\n)*two",
    ),
    "more output than is shown": ("p.rst", console("$ echo one; echo two", "one"), r"p\.rst:6: says something else"),
    "what should fail and does not": ("p.rst", console("$ true", before=".. fails\n\n"), r"p\.rst:8: ended with 0"),
    "a failure before the last": (
        "p.rst",
        console("$ false", "$ false", before=".. fails\n\n"),
        r"p\.rst:8: ended with 1",
    ),
    "output before any command": ("p.rst", console("hello"), r"p\.rst:6: .*begins with"),
    "a literal block": ("p.rst", "Title\n=====\n\nLook::\n\n   echo\n", r"p\.rst:\d+: a block that is none of those"),
    "an indented block": ("p.md", "Look\n\n    echo\n", r"p\.md:3: a block without a language"),
    "a block without a language": ("p.md", "```\necho\n```\n", r"p\.md:2: .*nothing that can be run"),
    "a language that is not run": (
        "p.rst",
        "Title\n=====\n\n.. code-block:: ini\n\n   [a]\n",
        r"p\.rst:6: .*nothing that can be run",
    ),
    "a mapping without a name": ("p.rst", yaml("a: b"), r"p\.rst:6: .*nothing that can be run"),
    "an unknown directive": ("p.rst", "Title\n=====\n\n.. prompt:: bash\n\n   echo\n", r"p\.rst:4: .*prompt"),
    "no YAML": ("p.rst", yaml("a: b: c"), r"p\.rst:6: this is no YAML"),
    "a file that nothing uses": (
        "p.rst",
        yaml("a: b", options="   :caption: vars.yml\n"),
        r"p\.rst:7: vars\.yml is used by nothing",
    ),
    "a file outside of the directory": (
        "p.md",
        "In `/etc/x.yml`:\n\n```yaml\na: b\n```\n\n```shell\ncat /etc/x.yml\n```\n",
        r"p\.md:4: /etc/x\.yml is not within",
    ),
    "a mark before nothing": (
        "p.rst",
        console("$ true", before=".. fails\n\nText.\n\n"),
        r"p\.rst:[45]: this mark stands before no block",
    ),
    "a mark at the end": ("p.md", "Text.\n\n<!-- not run: so -->\n", r"p\.md:3: this mark stands before no block"),
    "an inventory of nobody": (
        "p.rst",
        yaml("plugin: community.backblaze.b2_group_members"),
        r"p\.rst:6: this inventory has none",
    ),
    "an inventory that is none": (
        "p.rst",
        yaml("plugin: community.backblaze.b2_group_members", "group_names: [nobody]"),
        r"p\.rst:6: ended with",
    ),
    "an unknown fault": ("p.rst", console("$ fault dance"), r"p\.rst:6: ended with 1(.|\n)*there is no fault dance"),
    "a fault without its address": ("p.rst", console("$ fault left"), r"p\.rst:6: (.|\n)*write: fault left ADDRESS"),
    "the vault password in the output": (
        "p.rst",
        console("$ cat ~/.vault-password"),
        r"p\.rst:6: prints the master key or the vault",
    ),
    "another vault password in the output": (
        "p.rst",
        console("$ echo of-this-page > ~/.other-password", "$ cat ~/.other-password"),
        r"p\.rst:7: prints the master key or the vault",
    ),
    "the master key in the output": ("p.rst", console("$ env"), r"p\.rst:6: prints the master key"),
    "a member's key in the output": ("p.rst", yaml(*RETURNED_KEY), r"p\.rst:6: prints a key"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found_and_where(what, tmp_path):
    name, text, said = WRONG[what]
    with pytest.raises(blocks.PageError, match=said):
        tell(tmp_path, name, text)


STORY = r"""
Title
=====

.. code-block:: yaml
   :caption: vars/name.yml

   name: hosting

.. code-block:: console

   $ fault created-elsewhere a@x.example
   $ export WHERE=vars; mkdir on; cd on
   $ cat \
     ../$WHERE/name.yml
   name: ...

   $ pwd
   .../scratch/on

- In a list:

  .. not run: it is only shown
  .. code-block:: console

     $ touch ../only-shown

.. note::

   .. fails
   .. code-block:: yaml

      - ansible.builtin.fail:

.. code-block:: yaml

   plugin: community.backblaze.b2_group_members
"""


def test_a_page_is_a_story(tmp_path):
    told = tell(tmp_path, "p.rst", STORY)
    assert sorted(path.name for path in told.scratch.iterdir() if not path.name.startswith(".")) == ["on", "vars"]


def test_a_name_in_markdown_is_what_ends_the_paragraph_before(tmp_path):
    page = tmp_path / "p.md"
    fence = "```text\nx\n```\n"
    ends = {"Then, in `a.csv`:": "a.csv", "`a.csv` is a list:": "", "Look at `vars`:": "", "In `a.csv`": ""}
    for paragraph, name in ends.items():
        page.write_text(f"{paragraph}\n\n<!-- fails -->\n{fence}", encoding="utf-8")
        assert [(block.name, block.marks) for block in blocks.find(page)] == [(name, ("fails",))]
