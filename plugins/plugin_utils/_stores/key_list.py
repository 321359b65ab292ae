# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of a file that holds many keys: the variable ``b2_member_keys``, by address, beside whatever else its owner keeps there.

Keys are put in and taken out as lines; nothing is dumped anew, so all else stays as it is, byte for byte. Each new text is read again,
and has to hold what the old one held and the new keys, before anybody sees it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import typing as t

import yaml

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._members import Member, NewMember, unsafe_name
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.key_file import (
    is_key,
    is_key_of,
    is_null,
    key_line,
    key_variables,
    quoted,
    text_of,
)

VARIABLE = "b2_member_keys"
#: What a new file begins with.
HEADER = "---\n# Sealed by community.backblaze. Backblaze shows these keys nowhere else: keep this file.\n"
_PROBE = NewMember(Member("probe", "probe@b2-member-keys.invalid"), "probe", "probe")
_INDENT = 2
# The one that is written in C reads five thousand keys in a fifth of a second, the other in two.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: The variables of one member; b2_email is the address that they stand under, if it is not among them.
Variables = dict[str, str]


class _Misfit(Exception):
    """Why a text cannot hold keys."""


@dataclasses.dataclass(frozen=True, repr=False)
class KeyList:
    """A text that keys can be put into: what is before them, the lines put in since it was read, and what is after them.

    keys: by address. spans: where the entries that were read stand, from the first character of the address to behind the last one of
    the value. other: all other variables, as YAML events.
    """

    path: str
    head: str
    tail: str
    indent: str
    line_end: str
    other: tuple[t.Any, ...]
    keys: t.Mapping[str, Variables]
    spans: t.Mapping[str, tuple[int, int]]
    lines: t.Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join((self.head, *self.lines.values(), self.tail))

    def line(self, new: NewMember) -> str:
        """Return a key as a line for this text; StoreError where it would not come back from there as it is."""
        line = f"{self.indent}{quoted(new.member.email)}: {key_line(new)}"
        with contextlib.suppress(StoreError):
            alone = _read(f"{VARIABLE}:\n{line}\n", self.path)
            if alone.keys == {new.member.email: key_variables(new)} and line.isascii() and line.isprintable():
                return line + self.line_end
        raise StoreError(
            f"The key of {new.member.email} could not be written in such a way that it comes back as it is."
        )

    def plus(self, lines: t.Mapping[str, str], news: t.Mapping[str, NewMember]) -> KeyList:
        """Return the text with more keys, each by address as a line of this text; one that is there already is replaced.

        A line beside lines that came about in the same way is read alone, see line: that such lines may stand here was shown when the
        text was read. Where one takes the place of another's writing the whole text is read again.
        """
        rewritten = {email: line for email, line in lines.items() if email in self.spans}
        keys = {**self.keys, **{email: key_variables(new) for email, new in news.items()}}
        added = {**self.lines, **{email: line for email, line in lines.items() if email not in rewritten}}
        whole = dataclasses.replace(self, keys=keys, lines=added)
        return whole._edited({email: line.strip() for email, line in rewritten.items()}, keys) if rewritten else whole

    def without(self, emails: t.Collection[str]) -> KeyList:
        """Return the text without some of its keys; a comment behind one of them on its line stays."""
        return self._edited(
            dict.fromkeys(emails, ""), {email: key for email, key in self.keys.items() if email not in emails}
        )

    @property
    def bare(self) -> bool:
        """Whether there is nothing in this text but what a new file begins with."""
        return self.text == new_text(self.path).text

    def remarks(self, email: str) -> bool:
        """Tell whether the entry of an address has a comment of its own inside."""
        start, end = self.spans.get(email, (0, 0))
        return "#" in self.head[start:end]

    def proven(self) -> KeyList:
        """Return this text, if a key can be put into it so that everything else stays; else StoreError."""
        email = _PROBE.member.email
        probe = self.plus({email: self.line(_PROBE)}, {email: _PROBE})
        probe._prove(probe.keys)
        return self

    def _edited(self, entries: t.Mapping[str, str], keys: t.Mapping[str, Variables]) -> KeyList:
        """Return the text with other entries in the places of these, or none where they are empty; keys: what it holds then."""
        whole = self.text
        read = _read(whole, self.path) if self.lines else self
        parts, done = [], 0
        for email, span in read.spans.items():
            if email not in entries:
                continue
            start, end = span if entries[email] else _whole_line(whole, *span)
            parts += [whole[done:start], entries[email]]
            done = end
        edited = _read("".join([*parts, whole[done:]]), self.path)
        if edited.keys != keys or edited.other != self.other:
            raise _cannot_be_edited(self.path, "its entries stand in it in an unusual way")
        return edited.proven()

    def _prove(self, keys: t.Mapping[str, Variables]) -> None:
        """Show that this text holds these keys, and else what it held, or raise StoreError."""
        with contextlib.suppress(StoreError):
            found = _read(self.text, self.path)
            if found.keys == keys and found.other == self.other:
                return
        raise _cannot_be_edited(self.path, "a new entry would change something else in it")


def new_text(path: str) -> KeyList:
    """Return the text of a new file."""
    return _read(f"{HEADER}{VARIABLE}:\n", path)


def read_text(plaintext: bytes, path: str) -> KeyList:
    """Return what a file holds, or say that it cannot be, or not be edited."""
    try:
        text = plaintext.decode("utf-8")
    except UnicodeDecodeError:
        raise _cannot_be_edited(path, "it is not UTF-8 text") from None
    return _read(text, path).proven()


def _cannot_be_edited(path: str, reason: str) -> StoreError:
    return StoreError(
        f"{path} cannot take up keys: {reason}.",
        remedy=f"Write {VARIABLE} in it as a mapping with one address a line, or leave that variable out; or move the file away.",
    )


# From here on a text is taken apart.


def _read(text: str, path: str) -> KeyList:
    try:
        with contextlib.closing(_Reading(text, path)) as reading:
            return reading.key_list()
    except _Misfit as exc:
        raise _cannot_be_edited(path, str(exc)) from None
    except (yaml.YAMLError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        raise _cannot_be_edited(path, f"it is not YAML{f' (line {mark.line + 1})' if mark else ''}") from None


class _Reading:
    """One pass over the YAML events of a text."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path
        self._loader = _LOADER(text)
        # Whether the collections are flow collections that are open now, and where the last thing ended that can be seen: a block
        # collection's own end is only where the next thing begins.
        self._flow: list[bool] = []
        self._end: t.Any = None
        self._keys: dict[str, Variables] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        self._other: list[t.Any] = []

    def close(self) -> None:
        """Let go of the text."""
        self._loader.dispose()

    def key_list(self) -> KeyList:
        line_end = "\r\n" if "\r\n" in self._text else "\n"
        head, tail, indent = self._taken_apart(line_end)
        if head and not head.endswith("\n"):
            head += line_end
        return KeyList(self._path, head, tail, " " * indent, line_end, tuple(self._other), self._keys, self._spans)

    def _taken_apart(self, line_end: str) -> tuple[str, str, int]:
        """Read the whole text; return what is before a new line, what is after it, and its indentation."""
        text = self._text
        self._next()
        place, indent, end = None, 0, len(text)
        if isinstance(self._next(), yaml.DocumentStartEvent):
            place, indent = self._root()
            ending = self._next()
            if ending.explicit:
                end = _start(ending)
            if not isinstance(self._next(), yaml.StreamEndEvent):
                raise _Misfit("it holds more than one YAML document")
        if place is None:
            before = text[:end]
            gap = "" if not before or before.endswith("\n") else line_end
            return f"{before}{gap}{' ' * indent}{VARIABLE}:{line_end}", text[end:], indent + _INDENT
        cut, resume = place
        after = _line_after(text, resume)
        return text[:cut] + text[resume:after], text[after:], indent

    def _root(self) -> tuple[t.Optional[tuple[int, int]], int]:
        """Read the document; return behind what a new line comes and what part of that has to go, and its indentation."""
        root = self._next()
        if _is_null(root):
            return None, 0
        if not isinstance(root, yaml.MappingStartEvent):
            raise _Misfit("it holds no variables")
        if root.flow_style or root.anchor:
            raise _Misfit("its variables stand in braces or are anchored")
        place = None
        name = self._next()
        inner = indent = name.start_mark.column
        while not isinstance(name, yaml.MappingEndEvent):
            scalar = name.value if isinstance(name, yaml.ScalarEvent) else None
            if scalar == "<<":
                raise _Misfit("it merges other variables into its own")
            if scalar != VARIABLE:
                self._other += [*self._node(name), *self._node(self._next())]
            elif place:
                raise _Misfit(f"it holds {VARIABLE} twice")
            else:
                place, inner = self._members(indent)
            name = self._next()
        return place, inner if place else indent

    def _members(self, indent: int) -> tuple[tuple[int, int], int]:
        """Read the value of the variable; return what part of it has to go, and the indentation of its entries."""
        value = self._next()
        if _is_null(value):
            return (_start(value), _end(value)), indent + _INDENT
        if not isinstance(value, yaml.MappingStartEvent):
            raise _Misfit(f"{VARIABLE} in it is no mapping")
        if value.anchor:
            raise _Misfit(f"{VARIABLE} in it is anchored")
        inside = self._next()
        if value.flow_style:
            if not isinstance(inside, yaml.MappingEndEvent):
                raise _Misfit(f"{VARIABLE} in it stands in braces")
            return (_start(value), _end(inside)), indent + _INDENT
        inner = inside.start_mark.column
        while not isinstance(inside, yaml.MappingEndEvent):
            self._entry(inside)
            inside = self._next()
        # The end that can be seen of the last entry: spans are in the order of the text.
        end = next(reversed(self._spans.values()))[1]
        return (end, end), inner

    def _entry(self, name: t.Any) -> None:
        """Read one member's entry."""
        email = _text(name)
        if email is None:
            raise _Misfit(f"line {name.start_mark.line + 1} of it is no address")
        if email in self._keys:
            raise _Misfit(f"it holds {email} twice")
        variables: Variables = {}
        inside = self._next()
        if not isinstance(inside, yaml.MappingStartEvent) or inside.anchor:
            raise _Misfit(f"what it holds for {email} is no key")
        inside = self._next()
        while not isinstance(inside, yaml.MappingEndEvent):
            value = self._next()
            texts = _text(inside), _text(value)
            if texts[0] is not None and texts[1] is not None:
                variables[sys.intern(texts[0])] = texts[1]
            else:
                # A list or so is none of ours: it is kept in a form that can be compared.
                nodes = self._node(inside), self._node(value)
                if any(event[0] == "alias" or event[1] for node in nodes for event in node):
                    raise _Misfit(f"the entry of {email} in it uses anchors")
                variables[repr(nodes[0])] = repr(nodes[1])
            inside = self._next()
        variables.setdefault("b2_email", email)
        if not is_key(variables):
            raise _Misfit(f"what it holds for {email} is no key")
        if not is_key_of(variables, email) or unsafe_name(email):
            raise _Misfit(f"under {email} it holds the key of another address")
        self._keys[email] = variables
        self._spans[email] = (_start(name), self._end.index)

    def _node(self, first: t.Any) -> list[t.Any]:
        """Read the rest of a node; return its events as values that can be compared: (kind, anchor, tag, style or value)."""
        events: list[t.Any] = []
        depth = 0
        event = first
        while True:
            if isinstance(event, yaml.ScalarEvent):
                events.append(("scalar", event.anchor, event.tag, event.implicit, event.value))
            elif isinstance(event, yaml.AliasEvent):
                events.append(("alias", event.anchor))
            elif isinstance(event, yaml.CollectionStartEvent):
                events.append((type(event).__name__, event.anchor, event.tag))
                depth += 1
            else:
                events.append((type(event).__name__, None))
                depth -= 1
            if not depth:
                return events
            event = self._next()

    def _next(self) -> t.Any:
        event: t.Any = self._loader.get_event()
        kind = type(event)
        if kind is yaml.ScalarEvent or kind is yaml.AliasEvent:
            self._end = event.end_mark
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._flow.append(bool(event.flow_style))
        elif (kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent) and self._flow.pop():
            self._end = event.end_mark
        return event


def _is_null(event: t.Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and not event.anchor and is_null(event.value, bare=_is_bare(event))


def _text(event: t.Any) -> t.Optional[str]:
    return (
        text_of(event.value, event.tag, bare=_is_bare(event))
        if isinstance(event, yaml.ScalarEvent) and not event.anchor
        else None
    )


def _is_bare(event: t.Any) -> bool:
    return bool(event.implicit[0]) and not event.tag


def _start(event: t.Any) -> int:
    return int(event.start_mark.index)


def _end(event: t.Any) -> int:
    return int(event.end_mark.index)


def _line_after(text: str, index: int) -> int:
    """Return where the line after a place begins, or the end of the text."""
    if index and text[index - 1] == "\n":
        # Behind a text in block form, which ends where the next line begins.
        return index
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _whole_line(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the place of an entry with what is before it on its line and, if nothing else is behind it, its line end."""
    after = _line_after(text, end)
    begin = text.rfind("\n", 0, start) + 1
    return (begin, after) if not text[end:after].strip() else (start, end)
