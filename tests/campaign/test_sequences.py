# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any sequence of wishes, deeds of others, lost answers and runs: check mode foretells, and the run after a run changes
nothing.

CAMPAIGN=long plays many more and longer sequences. CAMPAIGN_SEED repeats a campaign; Hypothesis prints the shortest
sequence that fails.
"""

from __future__ import annotations

import collections
import pathlib
import shutil
import tempfile
import typing as t

import hypothesis
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ansible_collections.community.backblaze.plugins.module_utils._plan import Outcome, Wanted
from ansible_collections.community.backblaze.plugins.plugin_utils._run.input import wanted_members
from ansible_collections.community.backblaze.plugins.plugin_utils._run.job import Policy
from test_faults import CREATE, EJECT, LONG, SEED, Lab, Run, check_invariants

ADDRESSES = [f"{name}@customers.example.com" for name in ("ann", "ben", "cyd", "dan")]
addresses = st.sampled_from(ADDRESSES)
cases = st.sampled_from([str.lower, str.upper, str.title])
regions = st.sampled_from([None, None, "us-west", "eu-central"])
policies = st.builds(
    Policy,
    recreate=st.booleans(),
    recreate_members=st.sampled_from([frozenset(), frozenset(ADDRESSES)]),
    throwaway=st.just("lost-{account_id}@{domain}"),
    verify_keys=st.booleans(),
)
#: What may happen to a create: lost for good, lost for now, refused, made and cut just before the key or just behind
#: it.
accidents = st.sampled_from(
    [
        {"kind": "cut_after"},
        {"kind": "cut_before"},
        {"kind": "error", "status": 500},
        {"kind": "error", "status": 401, "code": "too_many_members"},
        {"kind": "truncate", "bytes": 30},
        {"kind": "truncate", "bytes": 51},
        {"kind": "html"},
        {"kind": "empty"},
        {"kind": "expire_token"},
        {"kind": "error", "status": 429, "code": "too_many_requests", "execute": True},
        {"kind": "interim", "seconds": 0.0},
        {"kind": "early", "seconds": 0.0},
        {"kind": "foreign"},
        {"kind": "foreign", "place": "before"},
    ]
)

figures: collections.Counter[str] = collections.Counter()


class Sequences(RuleBasedStateMachine):
    """One user's life with the collection."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="b2-sequences-"))
        self.lab = Lab(self.directory)
        self.wishes: dict[str, dict[str, t.Any]] = {}
        self.by_hand: dict[str, dict[str, t.Any]] = {}
        self.removed: set[str] = set()
        self.accidents = 0
        figures["sequences"] += 1

    def teardown(self) -> None:
        self.lab.close()
        shutil.rmtree(self.directory)

    # What the user wants

    @initialize(wishes=st.dictionaries(addresses, regions, min_size=2))
    def begin(self, wishes: dict[str, t.Optional[str]]) -> None:
        self.wishes = {address: {"email": address, "region": region} for address, region in wishes.items()}

    @rule(address=addresses, case=cases, region=regions)
    def want(self, address: str, case: t.Callable[[str], str], region: t.Optional[str]) -> None:
        self.wishes[address] = {"email": case(address), "region": region}

    @rule(address=addresses)
    def want_no_longer(self, address: str) -> None:
        self.wishes.pop(address, None)

    @rule(address=addresses, right=st.booleans())
    def give_a_key(self, address: str, right: bool) -> None:
        """The user gives a key to adopt: the right one if there is one, or somebody else's, or one that is nobody's."""
        keys = [
            entry
            for entry in self.lab.server.ledger()
            if (entry["account_id"] == self.lab.members().get(address)) == right
        ]
        key_id, key = (
            (keys[-1]["key_id"], keys[-1]["key"]) if keys else ("0040123456789ab0000000001", "K004" + "x" * 27)
        )
        self.wishes[address] = {"email": address, "application_key_id": key_id, "application_key": key}

    # What others do

    @rule(address=addresses, case=st.sampled_from([str.lower, str.title]), region=regions)
    def somebody_creates(self, address: str, case: t.Callable[[str], str], region: t.Optional[str]) -> None:
        if address not in self.lab.server.partner.addresses:
            made = self.lab.server.add_member("hosting", case(address), region)
            self.by_hand[made["accountId"]] = made

    @rule(address=addresses, renames=st.booleans())
    def somebody_ejects(self, address: str, renames: bool) -> None:
        account_id = self.lab.members().get(address)
        if account_id:
            self.lab.server.remove_member(account_id, f"gone-{account_id}@elsewhere.example" if renames else None)
            self.by_hand.pop(account_id, None)

    @rule(address=addresses)
    def somebody_deletes_the_key(self, address: str) -> None:
        variables = self.lab.sealed().get(address)
        if variables:
            self.lab.server.partner.keys.pop(variables.key_id, None)

    @rule(address=addresses)
    def the_file_is_removed(self, address: str) -> None:
        variables = self.lab.sealed().get(address)
        if variables:
            self.removed.add(variables.key)
            (self.lab.vault_dir / address / "b2_vault.yml").unlink()

    @rule(address=addresses, action=accidents, times=st.sampled_from([1, None]))
    def an_accident_waits(self, address: str, action: dict[str, t.Any], times: t.Optional[int]) -> None:
        """The next create of an address goes wrong."""
        self.lab.server.faults(
            [*self._rules(), {"operation": CREATE, "email": address, "times": times, "action": action}]
        )
        self.accidents += 1

    def _rules(self) -> list[dict[str, t.Any]]:
        return [
            {name: value for name, value in one.items() if name not in ("matches", "hits")}
            for one in self.lab.server.faults()
        ]

    # Runs

    def _wanted(self) -> list[Wanted]:
        return wanted_members(list(self.wishes.values()))

    @precondition(lambda self: self.wishes)
    @rule(policy=policies)
    def run_in_check_mode(self, policy: Policy) -> None:
        self._foretell(policy)

    @precondition(lambda self: self.wishes)
    @rule(address=addresses, action=accidents, recreate=st.booleans())
    def run_with_an_accident(self, address: str, action: dict[str, t.Any], recreate: bool) -> None:
        """Often enough for lost keys to meet everything else."""
        self.wishes.setdefault(address, {"email": address})
        self.an_accident_waits(address, action, None)
        self.run(Policy(recreate=recreate, throwaway="lost-{account_id}@{domain}"))

    @precondition(lambda self: self.wishes)
    @rule(address=addresses, right=st.booleans(), policy=policies)
    def run_with_a_key_to_adopt(self, address: str, right: bool, policy: Policy) -> None:
        """Somebody made the member, and the user has its key, or another one."""
        self.somebody_creates(address, str.title, None)
        self.give_a_key(address, right)
        self.run(policy)

    @precondition(lambda self: self.wishes)
    @rule(policy=policies)
    def run(self, policy: Policy) -> None:
        foretold = self._foretell(policy)
        taken = self._taken_outside()
        run = self._act(policy)
        if self.accidents:
            figures["accidents"] += self.accidents
            self.lab.server.faults([])
            self.accidents = 0
            run = self._act(policy)
        else:
            self._compare(foretold, run, taken)
        before, accounts = self.lab.tree(state=False), self.lab.server.state()["accounts"]
        again = self._act(policy)
        settled = {
            email: Outcome.UNCHANGED if outcome in (Outcome.CREATED, Outcome.ADOPTED) else outcome
            for email, outcome in run.outcomes.items()
        }
        assert again.outcomes == settled, "the run after a run says something else"
        assert self.lab.tree(state=False) == before and self.lab.server.state()["accounts"] == accounts, (
            "the run after a run changed something"
        )

    def _foretell(self, policy: Policy) -> Run:
        """Run in check mode: nothing may change, not a byte and not a time."""
        before, accounts, keys = self._everything(), self.lab.server.state()["accounts"], len(self.lab.server.ledger())
        run = self.lab.run(self._wanted(), policy=policy, check=True)
        assert run.error is None, run.error
        assert not run.changes and self._everything() == before
        assert self.lab.server.state()["accounts"] == accounts and len(self.lab.server.ledger()) == keys
        figures["runs in check mode"] += 1
        return run

    def _everything(self) -> dict[str, t.Any]:
        """Every file and directory with its times, its mode and its bytes."""
        found = {}
        for path in sorted(self.directory.rglob("*")):
            seen = path.lstat()
            found[str(path)] = (
                seen.st_mtime_ns,
                seen.st_ctime_ns,
                seen.st_mode,
                path.read_bytes() if path.is_file() else b"",
            )
        return found

    def _act(self, policy: Policy) -> Run:
        wanted = self._wanted()
        known = {entry["account_id"] for entry in self.lab.server.ledger()}
        before = self.lab.members()
        run = self.lab.run(wanted, policy=policy)
        assert run.error is None, run.error
        check_invariants(self.lab, run, wanted, known, most=1000, removed=self.removed)
        made = collections.Counter(
            entry["email"].lower() for entry in self.lab.created() if entry["account_id"] not in known
        )
        assert all(count <= 1 + (policy.recreate or bool(policy.recreate_members)) for count in made.values()), (
            f"more than one account at once: {made}"
        )
        after = set(self.lab.members().values())
        gone = {account_id for account_id in before.values() if account_id not in after}
        assert not gone & set(self.by_hand), "an account that somebody made by hand was ejected"
        assert policy.recreate or policy.recreate_members or not gone, "an account was ejected without the word for it"
        figures["runs"] += 1
        figures["members created"] += sum(made.values())
        figures["ejected"] += len(gone)
        figures["adopted"] += sum(one.outcome is Outcome.ADOPTED for one in run.results.values())
        figures["keys lost"] += sum(one.outcome is Outcome.KEY_LOST for one in run.results.values())
        return run

    def _taken_outside(self) -> set[str]:
        """The addresses of accounts that are in no Group: no list shows them, and none of them is free."""
        return {
            account["email"].lower() for account in self.lab.server.state()["accounts"] if account["group_id"] is None
        }

    def _compare(self, foretold: Run, run: Run, taken: t.Collection[str]) -> None:
        """Compare the run with check mode, which does not know the addresses of accounts outside the Groups."""
        foreseen = dict(foretold.outcomes)
        for email, outcome in foretold.outcomes.items():
            if outcome is Outcome.CREATED and email in taken:
                foreseen[email] = Outcome.REFUSED
                assert run.results[email].code == "invalid_email", run.results[email]
                figures["taken outside"] += 1
        assert foreseen == run.outcomes, "check mode foretold something else"
        assert foretold.plan and run.plan and foretold.plan.steps == run.plan.steps
        assert run.calls.get(CREATE, 0) == sum(step.outcome is Outcome.CREATED for step in foretold.plan.steps)
        assert run.calls.get(EJECT, 0) == sum(step.replaces is not None for step in foretold.plan.steps)
        figures["foretold"] += 1


def test_any_sequence_keeps_every_promise():
    figures.clear()
    settings = hypothesis.settings(
        max_examples=1000 if LONG else 100,
        stateful_step_count=50 if LONG else 20,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        hypothesis.seed(SEED)(Sequences)
        run_state_machine_as_test(Sequences, settings=settings)
    finally:
        print(f"\nsequences: {', '.join(f'{count} {name}' for name, count in figures.items())}; seed {SEED}")
