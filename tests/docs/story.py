# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the blocks of a page as a reader would: in one directory, one after the other, each in bash."""

from __future__ import annotations

import doctest
import json
import pathlib
import shlex
import subprocess
import sys
import typing as t

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
sys.path.insert(0, str(HERE.parent / "sandbox"))

from blocks import Block, PageError  # noqa: E402  # there is no package above these folders
from project import ledger, standin  # noqa: E402  # found only after sys.path has tests/e2e, see above
from sandbox import GROUPS, KEY, environment, make_home  # noqa: E402  # found only after sys.path has tests/sandbox

#: Seconds; no example takes longer, a hang is a failure.
PATIENCE = 120
OUTPUT = doctest.OutputChecker()


class Story:
    """What a page has made so far: files, exports, members at the stand-in.

    variables: for plays, where a page speaks of variables that its reader has.
    """

    def __init__(self, directory: pathlib.Path, server: standin.Control) -> None:
        self.server = server
        self.scratch = directory / "scratch"
        self.home = directory / "home"
        self.state = directory / "state"
        self.variables: dict[str, str] = {}
        for name, group_id in GROUPS.items():
            server.add_group(name, id=group_id)
        self.scratch.mkdir()
        make_home(self.home)
        self.write(self.state, f"cd {shlex.quote(str(self.scratch))}\n")

    @property
    def passwords(self) -> list[str]:
        """The vault passwords in the home directory; a page may have made another one."""
        return [path.read_text(encoding="utf-8").strip() for path in self.home.glob(".*-password")]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the sandbox, so that a reader can repeat each example there; output without colours."""
        dropped = ("COLUMNS", "FORCE_COLOR", "LC_", "LANG")
        kept = environment(self.home, self.server.url).items()
        return {**{name: value for name, value in kept if not name.startswith(dropped)}, "LC_ALL": "C.UTF-8"}

    def write(self, name: pathlib.Path | str, text: str) -> None:
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def tell(self, blocks: t.Sequence[Block]) -> None:
        """Run all blocks of a page. Raises PageError at the first that does not do what the page says."""
        for place, block in enumerate(blocks):
            if block.not_run:
                print(f"{block.page.name}:{block.line}: not run: {block.not_run}")
            elif block.name:
                self._file(block, blocks[place + 1 :])
            else:
                self._runner(block)(block)

    def _file(self, block: Block, later: t.Sequence[Block]) -> None:
        path = pathlib.PurePath(block.name)
        if path.is_absolute() or ".." in path.parts:
            raise block.error(f"{block.name} is not within the page's own directory")
        # What Ansible reads by itself needs no mention; the rest is an example only if something makes use of it.
        by_itself = path.name == "ansible.cfg" or {"host_vars", "group_vars"} & set(path.parts)
        if not by_itself and not any(part in other.text for part in path.parts for other in later if not other.not_run):
            raise block.error(f"{block.name} is used by nothing that is run after it")
        if block.language.startswith("yaml"):
            _read(block)
        self.write(path, block.text)

    def _runner(self, block: Block) -> t.Callable[[Block], None]:
        if block.language == "console":
            return self._console
        if block.language == "shell":
            return self._shell
        content = _read(block) if block.language in ("yaml", "yaml+jinja") else None
        if isinstance(content, dict) and "plugin" in content:
            return self._inventory
        if isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
            return (
                self._plays
                if any({"hosts", "import_playbook", "ansible.builtin.import_playbook"} & set(one) for one in content)
                else self._tasks
            )
        raise block.error(
            f"this {block.language} block has no name and is nothing that can be run: give it a name, or say why "
            "it is not run"
        )

    def _console(self, block: Block) -> None:
        commands = _commands(block)
        for place, (line, command, expected) in enumerate(commands):
            self._bash(block, command, line, fails=block.fails and place == len(commands) - 1, expected=expected)

    def _shell(self, block: Block) -> None:
        self._bash(block, f"set -e\n{block.text}")

    def _plays(self, block: Block) -> None:
        self._ansible(block, "ansible-playbook", self._as_in_page(block))

    def _tasks(self, block: Block) -> None:
        tasks = self._as_in_page(block)
        play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.import_tasks": tasks}]}]
        self.write(f".play-{block.line}.yml", json.dumps(play))
        self._ansible(block, "ansible-playbook", f".play-{block.line}.yml")

    def _inventory(self, block: Block) -> None:
        name = f"line-{block.line}.b2_group_members.yml"
        self.write(name, block.text)
        # Ansible takes a source that no plugin can read for an empty one, unless it is told not to.
        output = self._ansible(
            block, "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=true ansible-inventory --graph -i", name
        )
        (self.scratch / name).unlink()
        if not any(member["email"] in output for member in self.server.control("members")):
            raise block.error(f"this inventory has none of the members:\n{output}")

    def _as_in_page(self, block: Block) -> str:
        """Write a block so that Ansible, when it names a line, names the page's; return the file's name."""
        name = f".line-{block.line}.yml"
        self.write(name, "\n" * (block.line - 1) + block.text)
        return name

    def _ansible(self, block: Block, command: str, name: str) -> str:
        self.write(self.home / "variables.json", json.dumps(self.variables))
        return self._bash(
            block, f"(cd {shlex.quote(str(self.scratch))} && {command} {name} -e @~/variables.json)", fails=block.fails
        )

    def _bash(self, block: Block, script: str, line: int = 0, *, fails: bool = False, expected: str = "") -> str:
        """Run a script with the exports and in the directory of those before it, and compare what it says with what is
        expected, if anything.

        Returns what it said, both streams.
        """
        state = shlex.quote(str(self.state))
        keep = f'trap \'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {state}\' EXIT'
        try:
            process = subprocess.run(
                ["bash", "--noprofile", "--norc", "-c", f". {state}\n{keep}\n{script}"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PageError(
                block.page, line or block.line, f"takes more than {PATIENCE} seconds\n$ {script.strip()}"
            ) from None
        output = _trimmed(process.stdout)
        problem = ""
        if bool(process.returncode) != fails:
            problem = f"ended with {process.returncode}, it should have {'failed' if fails else 'gone well'}"
        elif expected and not OUTPUT.check_output(expected, output, doctest.ELLIPSIS):
            problem = f"says something else than the page:\n{expected}--- but"
        elif any(secret in output for secret in (KEY, *self.passwords)):
            problem = "prints the master key or the vault password"
        elif "b2_application_key:" not in expected and any(
            entry["key"] in output for entry in ledger.handed_out(self.server.url)
        ):
            problem = "prints a key, and the page does not say so"
        if problem:
            raise PageError(block.page, line or block.line, f"{problem}\n$ {script.strip()}\n{output}")
        return output


def _read(block: Block) -> t.Any:
    """Return what a YAML block holds; tags such as !vault have no meaning."""
    loader = yaml.SafeLoader(block.text)
    loader.yaml_multi_constructors = {**loader.yaml_multi_constructors, "!": lambda *_unread: ""}
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise block.error(f"this is no YAML: {error}") from None


def _commands(block: Block) -> list[tuple[int, str, str]]:
    """Take a console block apart: (line in the page, command, expected output)."""
    found: list[tuple[int, str, str]] = []
    goes_on = False
    for line, text in enumerate(block.text.splitlines(), start=block.line):
        if goes_on:
            begun, command, expected = found[-1]
            found[-1] = (begun, f"{command}\n{text}", expected)
        elif text.startswith("$ "):
            found.append((line, text.removeprefix("$ "), ""))
        elif found:
            begun, command, expected = found[-1]
            found[-1] = (begun, command, f"{expected}{text}\n")
        else:
            raise block.error("a console block begins with a line that begins with `$ `")
        goes_on = text.endswith("\\") and not found[-1][2]
    return [(line, command, _trimmed(expected) if expected.strip() else "") for line, command, expected in found]


def _trimmed(text: str) -> str:
    """Without spaces at the ends of lines and empty lines around."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"
