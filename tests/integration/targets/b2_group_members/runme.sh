#!/usr/bin/env bash
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

set -eux -o pipefail

export ANSIBLE_ROLES_PATH=../ ANSIBLE_ACTION_PLUGINS=../setup_standin/action_plugins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "one password" > "$work/dev"
echo "another password" > "$work/prod"

ansible-playbook main.yml -i localhost, -c local -e "work=$work" \
    --vault-id "dev@$work/dev" --vault-id "prod@$work/prod" "$@" > "$work/stdout" 2> "$work/stderr" || failed=$?
cat "$work/stdout" "$work/stderr" | tee "$work/output"
test -z "${failed-}"

# A long wait is told by the process of the task, and only on stderr: stdout may be read by a program.
grep -q "^community.backblaze: b2_list_group_members: .* The call is sent again in 3 s.$" "$work/stderr"
if grep -q "is sent again" "$work/stdout"; then
    echo "A line about a wait is on stdout."
    exit 1
fi

# Releases differ in whether a result keeps its warnings.
tr -s "\n " " " < "$work/output" | grep -q "WARNING\]: key_missing: Backblaze shows[^[]* foreign@x.example: Account [0-9a-f]* is in the Group"
tr -s "\n " " " < "$work/output" | grep -q "WARNING\]: key_lost: Backblaze shows[^[]* lost@x.example: Account [0-9a-f]* was created by an earlier run"

# The summary of the role names counts, members and the report, after a run that succeeds and after one that fails.
tr -s "\n " " " < "$work/output" | grep -qF "\"Members by outcome:\", \"unchanged: 1\", \"created: 1\", \"created:\", \
\" role@reported.example\", \"Report: $work/reports/role.json\""
tr -s "\n " " " < "$work/output" | grep -qF "\"Members by outcome:\", \"unchanged: 1\", \"conflict: 1\", \
\"conflict: A region cannot be changed: correct the entry.\", \
\" ada@reported.example: The member is in region ca-east, not in us-east.\", \"Report: $work/reports/role.csv\""

# The playbook left every key there was, and the master key: none is on the screen, in a file of the run, in a report or in a journal.
test "$(wc -l < "$work/keys")" -ge 10
set +x
if grep -rqFf "$work/keys" "$work/output" "$work/host_vars" "$work/reports"; then
    echo "A key is in the output, in a report, or in clear in the vault directory."
    exit 1
fi
set -x

ansible-playbook no_secret.yml -i localhost, -c local -e "work=$work" "$@"
AWX_PRIVATE_DATA_DIR="$work/private" ansible-playbook job.yml -i localhost, -c local -e "work=$work" --vault-id "dev@$work/dev" "$@"
