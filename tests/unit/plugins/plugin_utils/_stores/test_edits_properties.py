# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold stores against a model while keys are sealed, files are edited with ansible-vault, and other runs begin.

A sealed key is read back until somebody removes it from its file. Lines that the owner of a host_vars file has added
survive. A group_vars file that holds anything else than keys is refused and not changed.
"""

from __future__ import annotations

import dataclasses
import os
import re

import pytest
from ansible.parsing.vault import VaultLib
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import StoredKey
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.layouts import (
    GROUP_VARS,
    HOST_VARS,
    open_store,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.tests.utils.vault_files import contents, read, untouched, write

EMAILS = ["alice@x.example", "bob@x.example"]
GROUP = "100001"
#: What an editor may make of the end of each line.
BLANKS = [b"\n", b"\n\n", b"\r\n"]

emails = st.sampled_from(EMAILS)
keys = st.sampled_from(["K004one", "K004/two+"])
regions = st.sampled_from(["us-west", "{{ evil }}"])
seals = st.tuples(st.just("seal"), emails, keys, regions, st.booleans())


class World:
    """A vault directory, the store of the run that works there now, and an editor."""

    def __init__(self, layout, path, secrets):
        self.layout, self.path, self.secrets, self.vault = layout, str(path), secrets, VaultLib(secrets)
        self.store = self.opened()
        self.store.prove(EMAILS, write=True)
        # A directory for the index, as each run makes it.
        with self.store.locked(GROUP, 0.0, lambda seconds: None):
            pass

    def opened(self):
        return open_store(self.layout, self.path, Sealer(self.secrets), GROUP)

    def text(self, email=""):
        """Return the decrypted file of an address; None if there is no file."""
        file = self.store.file(email)
        return bytes(self.vault.decrypt(read(file))) if os.path.exists(file) else None

    def edit(self, email, change):
        """Change the text of a file as ansible-vault edit does; does nothing if there is no file."""
        text = self.text(email)
        if text is not None:
            write(self.store.file(email), self.vault.encrypt(change(text), self.secrets[0][1]))
        return text is not None

    def seals(self, key, again, *, refused):
        """Seal a key, which has to be refused and change nothing, or to succeed."""
        if not refused:
            assert self.store.seal(key, again=again) == self.store.file(key.email)
            return
        with untouched(self.path), pytest.raises(StoreError, match=refused) as error:
            self.store.seal(key, again=again)
        assert self.store.file(key.email) in str(error.value) and error.value.remedy


def key_for(email, key, region):
    return StoredKey(email, f"id of {key}", key, f"account of {email}", GROUP, region)


# host_vars


@dataclasses.dataclass
class File:
    """What the file of a member has to hold: the key, and the lines that its owner has added."""

    key: StoredKey
    lines: list = dataclasses.field(default_factory=list)
    #: The owner has removed the variable of the key.
    broken: bool = False


OWN_LINES = [b"mine: 1\n", b"# a note\n", b"b2_keys: {backup: {application_key: K004own}}\n", b'mine_too: "{{ x }}"\n']
own_edits = st.one_of(
    seals,
    st.tuples(st.just("add"), emails, st.sampled_from(OWN_LINES)),
    st.tuples(st.just("blanks"), emails, st.sampled_from(BLANKS)),
    st.tuples(st.just("region"), emails),
    st.tuples(st.just("twice"), emails),
    st.tuples(st.just("break"), emails),
    st.tuples(st.just("remove"), emails),
    st.tuples(st.just("reopen"), st.booleans()),
)
SEAL = ("seal", EMAILS[0], "K004one", "us-west", False)
AGAIN = ("seal", EMAILS[0], "K004one", "us-east", True)


@settings(max_examples=40)
@given(st.lists(own_edits, min_size=2, max_size=7))
@example([SEAL, ("add", EMAILS[0], OWN_LINES[0]), SEAL, AGAIN])
@example([SEAL, ("twice", EMAILS[0]), SEAL, AGAIN, ("reopen", True)])
@example([SEAL, ("reopen", True), ("break", EMAILS[0]), AGAIN, ("remove", EMAILS[0]), SEAL])
def test_keys_and_the_lines_of_owners_survive_in_host_vars(tmp_path_factory, secrets, steps):
    world = World(HOST_VARS, tmp_path_factory.mktemp("vault"), secrets)
    model = {}
    for step, *values in [*steps, ("reopen", False), ("reopen", True)]:
        if step == "reopen":
            agrees_with_host_vars(world, model)
            if values[0]:
                world.store.remember()
            world.store = world.opened()
            agrees_with_host_vars(world, model)
        else:
            {"seal": seal_in_host_vars}.get(step, edit_host_vars)(world, model, step, *values)


def seal_in_host_vars(world, model, _step, email, key, region, again):
    new, file = key_for(email, key, region), model.get(email)
    if file and file.broken:
        world.seals(new, again, refused="does not hold a member's key")
    elif file and file.key.key != key:
        world.seals(new, again, refused="holds another key")
    elif file and (file.lines or not again):
        with untouched(os.path.dirname(world.store.file(email))):
            world.seals(new, again, refused="")
    else:
        world.seals(new, again, refused="")
        model[email] = File(new)


def edit_host_vars(world, model, step, email, line=b""):
    file = model.get(email)
    if not file:
        return
    if step == "remove":
        os.unlink(world.store.file(email))
        del model[email]
        return
    changes = {
        "add": lambda text: text + line,
        "blanks": lambda text: text.replace(b"\n", line),
        "region": lambda text: re.sub(rb"(?m)^b2_region: .*$", b"b2_region: by-hand", text),
        # Ansible takes the last one as well.
        "twice": lambda text: text + b"b2_application_key: K004by-hand\n",
        "break": lambda text: re.sub(rb"(?m)^b2_application_key: .*$", b"", text),
    }
    world.edit(email, changes[step])
    if step == "add":
        file.lines.append(line.strip())
    elif step == "region":
        file.key = dataclasses.replace(file.key, region="by-hand")
    elif step == "twice":
        file.key, file.broken = dataclasses.replace(file.key, key="K004by-hand"), False
    elif step == "break":
        file.broken = True


def agrees_with_host_vars(world, model):
    broken = [email for email, file in model.items() if file.broken]
    if broken:
        with pytest.raises(StoreError, match="does not hold a member's key"):
            world.store.stored()
    else:
        assert set(world.store.stored()) == set(model)
    for email in EMAILS:
        file = model.get(email)
        if email in broken:
            with pytest.raises(StoreError, match="does not hold a member's key"):
                world.store.read(email)
            continue
        assert world.store.read(email) == (file and file.key)
        assert world.store.stored([email]) == ({email: file.key.known(world.store.file(email))} if file else {})
        if file:
            lines = [line.strip() for line in world.text(email).splitlines()]
            assert [line for line in lines if line in file.lines] == file.lines
            assert world.store.read(email).more or not file.lines


# group_vars


FOREIGN = [
    b"region: us\n",
    b"# a comment\n",
    b"  carol@x.example: {b2_application_key: k}\n",
    b"  carol@x.example: {b2_application_key: k, b2_email: carol@x.example}\n",
    b'  "carol@x.example": \n',
    b"---\nregion: us\n",
]
group_edits = st.one_of(
    seals,
    seals,
    st.tuples(st.just("add"), st.sampled_from(FOREIGN)),
    st.tuples(st.just("twice"), emails, st.booleans()),
    st.tuples(st.just("blanks"), st.sampled_from([*BLANKS, b" \n"])),
    st.tuples(st.just("region"), emails),
    st.tuples(st.just("remove"), emails),
    st.tuples(st.just("unlink")),
    st.tuples(st.just("repair")),
    st.tuples(st.just("reopen"), st.booleans()),
)
OTHER_SEAL = ("seal", EMAILS[1], "K004one", "us-west", False)


class GroupModel:
    """What the file of a Group has to hold, and which of its keys the run at work has sealed.

    foreign: the text without what does not belong into the file; None if all of it does.
    """

    def __init__(self):
        self.keys, self.sealed, self.foreign = {}, {}, None

    def put_back(self):
        """Another writer has removed keys that this run has sealed: its next write puts them back."""
        self.keys = {**self.keys, **{email: key for email, key in self.sealed.items() if email not in self.keys}}


@settings(max_examples=50)
@given(st.lists(group_edits, min_size=2, max_size=8))
@example([SEAL, ("twice", EMAILS[0], True), SEAL, OTHER_SEAL, ("repair",), OTHER_SEAL])
@example([SEAL, ("twice", EMAILS[0], False), ("reopen", True), OTHER_SEAL])
@example([SEAL, ("reopen", False), OTHER_SEAL, ("remove", EMAILS[1]), ("reopen", True)])
@example([SEAL, OTHER_SEAL, ("remove", EMAILS[0]), OTHER_SEAL])
@example([SEAL, ("unlink",), OTHER_SEAL])
@example([SEAL, ("region", EMAILS[0]), AGAIN, ("blanks", b"\r\n"), OTHER_SEAL])
@example([SEAL, ("add", FOREIGN[0]), ("reopen", True), AGAIN])
def test_keys_survive_in_group_vars_and_a_foreign_file_is_refused_untouched(tmp_path_factory, secrets, steps):
    world, model = World(GROUP_VARS, tmp_path_factory.mktemp("vault"), secrets), GroupModel()
    for step, *values in [*steps, ("reopen", True), ("reopen", False)]:
        if step == "reopen":
            agrees_with_group_vars(world, model)
            if values[0]:
                remember_group_vars(world, model)
            world.store, model.sealed = world.opened(), {}
            agrees_with_group_vars(world, model)
        else:
            {"seal": seal_in_group_vars}.get(step, edit_group_vars)(world, model, step, *values)


def remember_group_vars(world, model):
    if model.foreign is None:
        world.store.remember()
        model.put_back()
    else:
        with untouched(world.path):
            world.store.remember()


def seal_in_group_vars(world, model, _step, email, key, region, again):
    new = key_for(email, key, region)
    if model.foreign is not None:
        world.seals(new, again, refused="The file was not changed")
        return
    before = dict(model.keys)
    model.put_back()
    there = model.keys.get(email)
    if there and there.key != key:
        # Other keys are put back all the same.
        with pytest.raises(StoreError, match="not replaced"):
            world.store.seal(new, again=again)
    else:
        if again or not there:
            model.keys[email] = new
        before_bytes = contents(world.path)
        world.seals(new, again, refused="")
        assert model.keys != before or contents(world.path) == before_bytes
        model.sealed[email] = new


def edit_group_vars(world, model, step, *values):
    text = world.text()
    if text is None or (model.foreign is not None and step not in ("repair", "unlink")):
        return
    if step == "unlink":
        os.unlink(world.store.file(""))
        model.keys, model.foreign = {}, None
        return
    if step == "repair":
        if model.foreign is not None:
            world.edit("", lambda _text: model.foreign)
            model.foreign = None
        return
    if step == "add":
        model.foreign = text
        world.edit("", lambda text: text + values[0])
        return
    if step == "blanks":
        world.edit("", lambda text: text.replace(b"\n", values[0]))
        return
    line = re.search(rb'(?m)^ *"%b": .*\s' % re.escape(values[0].encode()), text)
    if not line:
        return
    if step == "twice":
        model.foreign = text
        second = line.group().replace(b"K004", b"K004other") if values[1] else line.group()
        world.edit("", lambda text: text.rstrip() + b"\n" + second)
    elif step == "region":
        changed = re.sub(rb"b2_region: [^,]*", b'b2_region: "by-hand"', line.group())
        world.edit("", lambda text: text.replace(line.group(), changed))
        model.keys[values[0]] = dataclasses.replace(model.keys[values[0]], region="by-hand")
    else:
        world.edit("", lambda text: text.replace(line.group(), b""))
        del model.keys[values[0]]


def agrees_with_group_vars(world, model):
    if model.foreign is not None:
        fresh = world.opened()
        with untouched(world.path):
            for work in (
                world.store.stored,
                fresh.stored,
                lambda: fresh.read(EMAILS[0]),
                lambda: fresh.prove(EMAILS, write=True),
            ):
                with pytest.raises(StoreError, match="The file was not changed") as refused:
                    work()
                assert world.store.file("") in str(refused.value) and "vars.yml" in refused.value.remedy
        return
    assert world.store.stored() == {email: key.known(world.store.file("")) for email, key in model.keys.items()}
    assert {email: world.store.read(email) for email in EMAILS} == {email: model.keys.get(email) for email in EMAILS}
