# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the examples of a page, with real parsers, and leave none out.

Pages are reStructuredText, Markdown, or plugins with ``EXAMPLES``. What a block means is said in README.md beside this
file.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import pathlib
import re
import typing as t

import yaml
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles
from docutils.utils import Reporter
from markdown_it import MarkdownIt
from markdown_it.token import Token

#: Roles of Sphinx and of antsibull-docs; the tests do not read their text.
ROLES = (
    "ref",
    "doc",
    "term",
    "envvar",
    "command",
    "file",
    "program",
    "option",
    "menuselection",
    "guilabel",
    "kbd",
    "abbr",
)
ANSIBLE_ROLES = ("ansplugin", "ansopt", "ansval", "ansretval", "ansenvvar", "ansenvvarref")
#: Directives of Sphinx that hold paragraphs and blocks.
PASSAGES = ("seealso", "versionadded", "versionchanged", "deprecated", "rubric")
MARK = re.compile(r"not run: \S|fails$")


class PageError(Exception):
    """A page with something in it that this cannot run: where it is, and what is wrong with it."""

    def __init__(self, page: pathlib.Path, line: int, problem: str) -> None:
        super().__init__(f"{page}:{line}: {problem}")


@dataclasses.dataclass(frozen=True)
class Block:
    """One example. line: its first line in the page. name: of the file that it is, if it is one. marks: the comments
    right before it."""

    page: pathlib.Path
    line: int
    language: str
    text: str
    name: str = ""
    marks: tuple[str, ...] = ()

    def error(self, problem: str) -> PageError:
        return PageError(self.page, self.line, problem)

    @property
    def not_run(self) -> str:
        """Why it is not run, empty if it is."""
        return next((mark.partition(": ")[2] for mark in self.marks if mark.startswith("not run")), "")

    @property
    def fails(self) -> bool:
        return "fails" in self.marks


def find(page: pathlib.Path) -> list[Block]:
    """Return the blocks of a page from top to bottom.

    Raises PageError for a block that is no example by the rules, for a mark that stands before none, and for what
    cannot be parsed.
    """
    return {".rst": _restructured, ".md": _markdown, ".py": _plugin}[page.suffix](page)


#: What a parser meets on its way through a page: a comment with its line, a block, or anything else.
Met = t.Union[tuple[int, str], Block, None]


def _with_marks(page: pathlib.Path, way: t.Iterable[Met]) -> list[Block]:
    """Return the blocks, each with the marks right before it. Raises PageError for a mark that has no block behind
    it."""
    blocks: list[Block] = []
    marks: list[tuple[int, str]] = []
    for met in itertools.chain(way, [None]):
        if isinstance(met, tuple):
            marks += [met] if MARK.match(met[1]) else []
        elif isinstance(met, Block):
            blocks.append(dataclasses.replace(met, marks=tuple(text for _line, text in marks)))
            marks = []
        elif marks:
            raise PageError(page, marks[0][0], f"this mark stands before no block: {marks[0][1]}")
    return blocks


class _CodeBlock(Directive):
    """Read the directive code-block of Sphinx, as far as pages use it."""

    has_content = True
    required_arguments = 1
    option_spec = dict.fromkeys(("caption", "emphasize-lines", "name"), directives.unchanged_required)

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content) + "\n"
        line = self.content_offset + 1 if self.content else self.lineno
        return [
            nodes.literal_block(text, text, example=self.arguments[0], caption=self.options.get("caption", ""), at=line)
        ]


class _Passage(Directive):
    """A directive that is looked through."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        node = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def _register() -> None:
    for name in ("code-block", "code", "sourcecode"):
        directives.register_directive(name, _CodeBlock)
    for name in PASSAGES:
        directives.register_directive(name, _Passage)
    for name in (*ROLES, *ANSIBLE_ROLES):
        roles.register_generic_role(name, nodes.literal)


def _restructured(page: pathlib.Path) -> list[Block]:
    _register()
    settings = {
        "report_level": Reporter.SEVERE_LEVEL + 1,
        "halt_level": Reporter.SEVERE_LEVEL + 1,
        "_disable_config": True,
    }
    document = publish_doctree(
        page.read_text(encoding="utf-8"), str(page), settings_overrides={**settings, "file_insertion_enabled": False}
    )
    for message in document.findall(nodes.system_message):
        # A directive that is not known would take its blocks along.
        if message["level"] >= Reporter.WARNING_LEVEL:
            raise PageError(page, message.get("line", 0), message.astext())
    return _with_marks(page, (_met_in_document(page, node) for node in document.findall(nodes.Element)))


def _met_in_document(page: pathlib.Path, node: nodes.Element) -> Met:
    if isinstance(node, nodes.comment):
        return node.line or 0, node.astext()
    if "example" in node:
        return Block(page, node["at"], node["example"], node.rawsource, node["caption"])
    if isinstance(node, (nodes.literal_block, nodes.doctest_block, nodes.raw)):
        raise PageError(
            page, node.line or 0, f"a block that is none of those that are run: {node.astext().partition(chr(10))[0]}"
        )
    return None


def _markdown(page: pathlib.Path) -> list[Block]:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    return _with_marks(page, (_met_in_markdown(page, tokens[: place + 1]) for place in range(len(tokens))))


def _met_in_markdown(page: pathlib.Path, tokens: t.Sequence[Token]) -> Met:
    token = tokens[-1]
    line = token.map[0] + 1 if token.map else 0
    if token.type == "html_block":
        return line, token.content.strip().removeprefix("<!--").removesuffix("-->").strip()
    if token.type == "code_block":
        raise PageError(page, line, "a block without a language")
    if token.type == "fence":
        before = list(itertools.dropwhile(lambda one: one.type == "html_block", tokens[-2::-1]))
        name = _name_in(before[1]) if before and before[0].type == "paragraph_close" else ""
        return Block(page, line + 1, token.info.strip(), token.content, name)
    return None


def _name_in(paragraph: Token) -> str:
    """Return the name in backticks, with a suffix, and the colon that the paragraph ends with; empty if it does not."""
    parts = [part for part in paragraph.children or [] if part.content]
    named = len(parts) > 1 and parts[-1].content == ":" and parts[-2].type == "code_inline"
    return parts[-2].content if named and pathlib.PurePath(parts[-2].content).suffix else ""


def _plugin(page: pathlib.Path) -> list[Block]:
    """Return one block with all tasks of a module, or one for each YAML document of another plugin."""
    source = next(
        node.value
        for node in ast.parse(page.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES"
    )
    text = ast.literal_eval(source)
    lines = text.splitlines(keepends=True)
    return [
        Block(
            page,
            source.lineno + document.start_mark.line,
            "yaml",
            "".join(lines[document.start_mark.line : document.end_mark.line]),
        )
        for document in yaml.compose_all(text, yaml.SafeLoader)
    ]
