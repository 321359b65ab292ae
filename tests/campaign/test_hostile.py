# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server that means harm: it gets no credential it should not have, writes nowhere, runs nothing, and hides no key.

Every value of every true answer is replaced by each of a list of others. CAMPAIGN=long replaces all of them,
CAMPAIGN_SEED repeats the sample that the short form takes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re
import socket
import subprocess
import time
import typing as t

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Policy
from project import KEY, Project, serving
from test_faults import (
    AUTHORIZE,
    BOUND,
    CREATE,
    EJECT,
    LIST_GROUPS,
    LIST_MEMBERS,
    LONG,
    OTHERS,
    RECREATE,
    SEED,
    VICTIM,
    WANTED,
    Lab,
    Run,
    check_invariants,
    lose_key,
    partner,  # it makes what follows importable, too
)

TEMPLATE = "{{ lookup('pipe', 'touch PWNED') }}"
ANSI = "\x1b]0;owned\x07\x1b[31mred\r\nERASED\x9b2J"
#: No message is longer, whatever was sent.
LONGEST_MESSAGE = 8000

VALUES: dict[str, t.Any] = {
    "null": None,
    "number": 7,
    "negative": -1.5,
    "huge number": 10**400,
    "text": "x",
    "no text": "",
    "list": [1],
    "no list": [],
    "object": {"a": 1},
    "no object": {},
    "true": True,
    "false": False,
    "very long text": "y" * 400_000,
    "template": TEMPLATE,
    "block template": "{% set x = lookup('pipe', 'touch PWNED') %}@x.example",
    "control characters": ANSI,
    "surrogate": "\ud800\x00",
    "path upwards": "../../x",
    "absolute path": "/etc/x",
    "dots": "..",
}


def _deep(levels: int = 900) -> t.Any:
    nested: t.Any = "x"
    for _level in range(levels):
        nested = [nested]
    return nested


VALUES["deep list"] = _deep()
ATTACKS = (
    "template",
    "block template",
    "control characters",
    "surrogate",
    "path upwards",
    "absolute path",
    "dots",
    "very long text",
)

Path = tuple[t.Union[str, int], ...]


def places(body: t.Any, at: Path = ()) -> t.Iterator[Path]:
    """Yield the path of every branch and leaf of an answer."""
    yield at
    entries = body.items() if isinstance(body, dict) else enumerate(body[:1]) if isinstance(body, list) else ()
    for name, value in entries:
        yield from places(value, (*at, name))


def replaced(body: t.Any, at: Path, value: t.Any) -> t.Any:
    """Return an answer with one value replaced."""
    if not at:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[at[0]] = replaced(copy[at[0]], at[1:], value)
    return copy


async def fault_replace(exchange: t.Any, *, place: t.Sequence[t.Union[str, int]], value: str) -> None:
    """Execute, and answer with one value replaced; only for a stand-in in this process."""
    answer = await exchange.execute()
    if answer.status < 300:
        with contextlib.suppress(LookupError, TypeError):
            answer.body = replaced(answer.body, tuple(place), VALUES[value])
    await exchange.answer(answer)


partner.FAULTS["replace"] = fault_replace


def true_answers() -> dict[str, t.Any]:
    """Return one true answer of each operation."""
    server = partner.Partner(groups=["hosting:2"])
    server.url = "http://127.0.0.1:1"
    group_id = next(iter(server.groups))

    def ask(operation: str, authorization: str, **fields: t.Any) -> t.Any:
        call = partner.Call(operation, "v3", "POST", fields, None, authorization, "test")
        answer = server.execute(call)
        assert answer.status == 200, answer.body
        return json.loads(partner.to_json(answer.body))

    settings = server.settings
    basic = base64.b64encode(f"{settings.admin_key_id}:{settings.admin_key}".encode()).decode()
    found = {AUTHORIZE: ask(AUTHORIZE, f"Basic {basic}")}
    token, admin = found[AUTHORIZE]["authorizationToken"], found[AUTHORIZE]["accountId"]
    found[LIST_GROUPS] = ask(LIST_GROUPS, token, adminAccountId=admin)
    found[LIST_MEMBERS] = ask(LIST_MEMBERS, token, adminAccountId=admin, groupId=group_id)
    found[CREATE] = ask(CREATE, token, adminAccountId=admin, groupId=group_id, memberEmail=VICTIM)
    account_id = found[CREATE]["groupMember"]["accountId"]
    found[EJECT] = ask(EJECT, token, adminAccountId=admin, groupId=group_id, memberAccountId=account_id)
    return found


@pytest.fixture
def hosts_asked(monkeypatch):
    """Every host that this process tried to find, so that nobody is asked but the stand-in."""
    asked: list[str] = []
    find = socket.getaddrinfo

    def note(host: t.Any, *arguments: t.Any, **options: t.Any) -> t.Any:
        asked.append(str(host))
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise socket.gaierror(socket.EAI_NONAME, "not in a test")
        return find(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    return asked


def everything_said(run: Run) -> list[str]:
    """Every text that a run hands to its user."""
    if run.error is not None:
        return [str(run.error), *map(str, run.error.facts.values())]
    assert run.report
    texts = [text for one in run.report.results for text in map(str, one.as_dict().values())]
    return [*texts, *run.report.notes, *(str(one.as_dict()) for one in run.report.settled)]


def check_harmless(lab: Lab, run: Run) -> None:
    """Nothing secret is said, nothing lies outside the vault directory, and nothing endless is shown."""
    secrets = [KEY, *lab.server.partner.tokens, *(entry["key"] for entry in lab.server.ledger())]
    said = everything_said(run)
    assert not [text[:200] for text in said for secret in secrets if secret in text]
    assert all(len(text) < LONGEST_MESSAGE for text in said), (
        f"a text of {max(map(len, said))} characters: {max(said, key=len)[:200]}"
    )
    outside = {path.name for path in lab.directory.iterdir()} - {"host_vars"}
    assert not outside, f"written outside the vault directory: {outside}"
    if lab.vault_dir.is_dir():
        names = {path.name for path in lab.vault_dir.iterdir()}
        assert names <= {".b2_members", *(one.email for one in WANTED)}, names
        # An unproven key is in a file beside the vault file.
        assert all(
            re.fullmatch(r"b2_vault\.yml|\.b2_vault\.yml\.[0-9a-f]+\.aside", path.name)
            for path in lab.vault_dir.glob("*@*/*")
        )


def play(lab: Lab, operation: str, action: dict[str, t.Any], **options: t.Any) -> Run:
    """Provision against one hostile answer, and once more when it is over."""
    known: set[str] = set()
    if operation == EJECT:
        known.add(lose_key(lab, Policy()))
    policy = RECREATE if operation == EJECT else Policy()
    about = {"email": VICTIM} if operation in (CREATE, EJECT) else {}
    lab.server.faults([{"operation": operation, "action": action, **about}])
    run = lab.run(WANTED, policy=policy, **options)
    # Where the true key was in no answer, what stood for it may be sealed: nobody could know.
    counterfeit = [VICTIM] if operation == CREATE and action.get("place") == ["applicationKey"] else []
    check_invariants(lab, run, WANTED, known, most=2, counterfeit=counterfeit)
    check_harmless(lab, run)
    lab.server.faults([])
    again = lab.run(WANTED)
    assert again.report, f"the next run ends with: {str(again.error)[:500]}"
    return run


def test_every_value_of_every_answer_may_be_anything(tmp_path, hosts_asked):
    answers = true_answers()
    cases = [
        (operation, place, value) for operation, body in answers.items() for place in places(body) for value in VALUES
    ]
    chance = random.Random(SEED)
    chosen = [
        (operation, place, value)
        for operation, place, value in cases
        if LONG or (operation == CREATE and (value in ATTACKS or chance.random() < 0.5)) or chance.random() < 0.08
    ]
    started = time.monotonic()
    broken = []
    ends: dict[str, int] = {}
    for number, (operation, place, value) in enumerate(chosen):
        directory = tmp_path / str(number)
        directory.mkdir()
        with Lab(directory) as lab:
            try:
                run = play(lab, operation, {"kind": "replace", "place": list(place), "value": value})
                end = "errors" if run.error else "reports"
                ends[end] = ends.get(end, 0) + 1
            except Exception as exc:  # noqa: BLE001 - a broken promise, or a traceback for the user
                broken.append(
                    f"{operation} {'.'.join(map(str, place)) or 'all of it'} = {value}: {type(exc).__name__}: "
                    f"{str(exc)[:400]}"
                )
    assert set(hosts_asked) <= {"127.0.0.1"}, set(hosts_asked)
    print(
        f"\nhostile: {len(chosen)} of {len(cases)} replaced values, {ends}; {len(broken)} broken promises; seed "
        f"{SEED}; "
        f"{time.monotonic() - started:.0f} s"
    )
    assert not broken, "\n".join(broken)


# Where credentials go


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("operation", [AUTHORIZE, LIST_GROUPS, LIST_MEMBERS, CREATE, EJECT])
def test_no_redirect_is_followed(tmp_path, operation, status):
    with Lab(tmp_path) as lab, partner.StandIn(groups=["hosting"]) as thief:
        if operation == EJECT:
            lose_key(lab)
        location = f"{thief.url}/b2api/v3/{operation}"
        lab.server.faults(
            [
                {
                    "operation": operation,
                    "times": None,
                    "action": {"kind": "redirect", "status": status, "location": location},
                }
            ]
        )
        run = lab.run(WANTED, policy=RECREATE)
        check_harmless(lab, run)
        assert not thief.log() and not thief.state()["calls"]
        if operation in (CREATE, EJECT):
            assert "redirect" in run.results[VICTIM].message
        else:
            assert run.error and "redirect" in str(run.error)


@pytest.mark.parametrize(
    "address",
    [
        "https://thief.example",
        "http://thief.example",
        "http://127.0.0.1.thief.example",
        "https://user:pass@thief.example",
        "@SELF@@thief.example",
        "http://user@127.0.0.1:1",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "//thief.example",
        "thief.example",
        "http://127.0.0.1:1\\@thief.example",
        "http://127.0.0.1:1?x=",
        "http://127.0.0.1:1#x",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://127.0.0.1:1/\r\nHost: x",
        "http://\u2460\u2461\u2466.0.0.1",
        "http://127.1",
        "http://2130706433",
        "http://0x7f.0.0.1",
        "http://localhost.thief.example",
        ["https://thief.example"],
        {"url": "https://thief.example"},
        7,
        True,
        "x" * 100_000,
    ],
    ids=lambda address: str(address)[:30].encode("ascii", "backslashreplace").decode().replace("\r\n", " "),
)
def test_no_address_but_a_fit_one_gets_the_token(tmp_path, hosts_asked, address):
    with Lab(tmp_path) as lab:
        if isinstance(address, str):
            address = address.replace("@SELF@", lab.server.url)
        body = {"apiInfo": {"groupsApi": {"groupsApiUrl": address}}}
        lab.server.faults([{"operation": AUTHORIZE, "times": None, "action": {"kind": "patch", "body": body}}])
        run = lab.run(WANTED)
        assert run.error and "No credential was sent there" in str(run.error)
        assert set(hosts_asked) <= {"127.0.0.1"} and set(lab.server.state()["calls"]) == {AUTHORIZE}
        check_harmless(lab, run)


def test_netrc_and_proxies_of_the_environment_get_nothing(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    with Lab(tmp_path / "lab") as lab, partner.StandIn() as proxy:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login thief password thief\ndefault login thief password thief\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        run = lab.run(WANTED)
        assert set(run.outcomes.values()) == {Outcome.CREATED}, run
        assert lab.server.state()["calls"][AUTHORIZE] == 1, "the token was replaced"
        assert not proxy.log() and not proxy.state()["calls"]


# Bodies without end


@pytest.mark.parametrize("operation", [AUTHORIZE, LIST_GROUPS, LIST_MEMBERS, CREATE])
@pytest.mark.parametrize("rate", [None, 2000], ids=["fast", "drip"])
def test_a_body_without_end_is_left(tmp_path, operation, rate):
    with Lab(tmp_path) as lab:
        action = {"kind": "endless", "rate": rate, "limit_bytes": 256 * 1024 * 1024}
        run = play(lab, operation, action, timeout=0.5, max_retries=1)
        assert run.seconds < BOUND


FILLERS = {
    "lists": "[],",
    "numbers": "0,",
    "objects": '{"a":0},',
    "text": '"x",',
    "fields": '{"applicationKey":0},',
    "quotes": '"applicationKey":"',
}


@pytest.mark.parametrize("operation", [LIST_MEMBERS, CREATE])
@pytest.mark.parametrize("filler", FILLERS)
def test_a_huge_body_takes_no_time_to_read(tmp_path, operation, filler):
    """The time to read an answer must grow with its size, not with the square of it."""
    with Lab(tmp_path) as lab:
        count = 1_200_000 // len(FILLERS[filler])
        action = {"kind": "raw", "body": "[@BODY@," + FILLERS[filler] * count + "0]"}
        run = play(lab, operation, action)
        assert run.seconds < BOUND / 2, f"{run.seconds:.1f} s"


# Through real processes


INVENTORY = {
    "plugin": "community.backblaze.b2_group_members",
    "keyed_groups": [{"prefix": "region", "key": "b2_region"}, {"prefix": "group", "key": "b2_group_name"}],
    "compose": {"copied": "b2_region", "joined": "b2_s3_endpoint ~ b2_account_id"},
    "groups": {"odd": "b2_region != 'us-west'"},
}
SHOW_ALL = [
    {
        "name": "Use every variable",
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {
                "name": "Show",
                "ansible.builtin.debug": {
                    "msg": "{{ b2_region }} {{ b2_s3_endpoint }} {{ b2_group_name }} {{ b2_account_id }} {{ b2_email }}"
                },
            },
            {"name": "Show one", "ansible.builtin.debug": {"var": "b2_s3_endpoint"}},
            {"name": "Set", "ansible.builtin.set_fact": {"again": "{{ b2_s3_endpoint }}{{ joined }}"}},
            {"name": "Show again", "ansible.builtin.debug": {"msg": "{{ again }}"}},
        ],
    }
]
TOUCH = "{{lookup('pipe','touch${IFS}PWNED')}}"


def process(project: Project, *command: str, **environment: str) -> str:
    """Run a program of ansible-core in the project; return all its output."""
    done = subprocess.run(
        command,
        cwd=project.directory,
        env=project.environment(**environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def check_output(project: Project, output: str, which: str) -> None:
    """No traceback, no secret, no control sequence, and nothing was run."""
    assert "Traceback" not in output and "unexpected exception" not in output.lower(), output[-3000:]
    assert not [needle for needle in project.needles() if needle in output], which
    # Those of the upper half Ansible itself prints as they are, in the JSON of any data.
    control = sorted(
        {
            hex(ord(character))
            for character in output
            if (character < " " or character == "\x7f") and character not in "\n\t"
        }
    )
    assert not control, (
        f"{which}: control characters {control} in "
        f"{[line for line in output.splitlines() if not line.isprintable()][:5]}"
    )
    assert not list(project.directory.rglob("*PWNED*")), output[-3000:]


NASTY = (TOUCH, TEMPLATE, ANSI, "../../x", "/etc/x", "{# x #}{% raw %}")


@pytest.mark.parametrize("turn", range(len(NASTY)) if LONG else (0, 2))
def test_inventory_and_play_are_not_taken_in(tmp_path, turn):
    """Every text that the service sends is one of the nasty ones, each field another one; in the long form every one in
    every field."""
    nasty = NASTY[turn:] + NASTY[:turn]
    emails = [one.email for one in WANTED]
    with serving(tmp_path, "hosting") as server:
        project = Project(tmp_path, server.url)
        member = dict(zip(("region", "s3Endpoint", "accountId", "groupName"), nasty, strict=False))
        answer = {"applicationKeyId": nasty[0], "groupMember": {**member, "email": nasty[3], "groupId": nasty[4]}}
        server.faults([{"operation": CREATE, "times": None, "action": {"kind": "patch", "body": answer}}])
        play = project.play(emails, return_members="always", report_file="report.html")
        done, result = project.run(play, "-vvv")
        outputs = [done.stdout + done.stderr]
        assert {one["outcome"] for one in result["members"]} <= {"key_lost", "conflict"}, (
            "a key of nobody knows whom counts as created"
        )
        report = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert report.count("<tr>") == len(emails) + 1
        handed_out = {one["key"] for one in server.ledger()}
        assert handed_out == {variables["b2_application_key"] for variables in sealed_variables(project).values()}, (
            "a delivered key is not sealed"
        )

        # Each member is another account, or a listing would take them for one.
        rows: dict[str, t.Any] = {
            str(number): {**member, "accountId": f"{nasty[2]}{number}"} for number in range(len(emails))
        }
        server.faults(
            [
                {
                    "operation": LIST_MEMBERS,
                    "times": None,
                    "action": {"kind": "patch", "body": {"groupMembers": rows, "groupName": nasty[3]}},
                }
            ]
        )
        # Away from host_vars: beside it ansible-inventory would show what Ansible itself decrypts for its hosts.
        (tmp_path / "sources").mkdir()
        (tmp_path / "sources" / "all.b2_group_members.yml").write_text(json.dumps(INVENTORY))
        listing = ("ansible-inventory", "-i", "sources/all.b2_group_members.yml", "--playbook-dir", "sources", "--list")
        outputs.append(process(project, *listing))
        (tmp_path / "show.yml").write_text(json.dumps(SHOW_ALL))
        outputs.append(process(project, "ansible-playbook", "-i", "sources/all.b2_group_members.yml", "show.yml"))
        assert outputs[-1].count("ok=4") == len(emails), outputs[-1][-3000:]
        # Warnings speak of account ids, too, and of files whose keys are of other accounts.
        done, _result = project.run(project.play(emails, vault_dir="elsewhere", on_key_missing="warn"))
        outputs.append(done.stdout + done.stderr)
        done, _result = project.run(project.play(emails, verify_keys=True))
        outputs.append(done.stdout + done.stderr)
        for number, row in enumerate(rows.values()):
            row["email"] = f"{nasty[1]}{number}"
        server.faults(
            [{"operation": LIST_MEMBERS, "times": None, "action": {"kind": "patch", "body": {"groupMembers": rows}}}]
        )
        outputs.append(process(project, *listing))
        server.faults(
            [
                {
                    "operation": LIST_GROUPS,
                    "times": None,
                    "action": {
                        "kind": "patch",
                        "body": {"groups": {str(number): {"groupId": f"{nasty[0]}{number}"} for number in range(2)}},
                    },
                }
            ]
        )
        server.add_group("hosting")
        done, _result = project.run(project.play(emails))
        outputs.append(done.stdout + done.stderr)
        (tmp_path / "sources" / "all.b2_group_members.yml").write_text(
            json.dumps({**INVENTORY, "group_names": ["hosting"]})
        )
        outputs.append(process(project, *listing))
        assert "Groups have the name" in outputs[-1] and "Groups have the name" in outputs[-2]
        for number, output in enumerate(outputs):
            check_output(project, output, f"output {number} of {len(outputs)}")
        assert {path.name for path in project.vault_dir.iterdir()} == {".b2_members", VICTIM, *OTHERS}
        print(
            f"\nhostile, real processes: {len(outputs)} runs with every text nasty (turn {turn}): nothing run, "
            "nothing shown, "
            f"{len(handed_out)} keys sealed"
        )


def sealed_variables(project: Project) -> dict[str, dict[str, str]]:
    """Return what is stored, read as the collection writes it (the marker of what is no template included)."""
    import yaml
    from ansible.parsing.vault import VaultLib, VaultSecret

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
    vault = VaultLib([("default", VaultSecret(project.password.encode()))])
    files = [*project.vault_dir.glob("*/b2_vault.yml"), *project.vault_dir.glob("*/.b2_vault.yml.*.aside")]
    return {path.parent.name: yaml.load(vault.decrypt(path.read_bytes()), Loader) for path in files}
