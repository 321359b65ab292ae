#!/usr/bin/env bash
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The main job from end to end, against the stand-in for Backblaze that this repository brings.
# Everything it makes is under .build/demo; look around there afterwards.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work=$(cd "$here/../.." && pwd)/.build/demo
started=$SECONDS

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

rm -rf "$work"
mkdir -p "$work"
cp "$here"/customers.yml "$here"/customers.b2_group_members.yml "$here"/authorize.yml "$work"
cd "$work"

python "$here/../utils/standin.py" --group hosting --ready-file standin.json --parent $$ --max-seconds 600 > standin.log 2>&1 &
standin=$!
trap 'kill "$standin" 2>/dev/null || true' EXIT
for _ in $(seq 100); do [ -s standin.json ] && break; sleep 0.1; done

# What a user sets once: where Backblaze is (here the stand-in), the master key of its Group admin, a vault password.
B2_ENVIRONMENT=$(python -c 'import json; print(json.load(open("standin.json"))["url"])')
export B2_ENVIRONMENT B2_APPLICATION_KEY_ID=0a1b2c3d4e5f B2_APPLICATION_KEY=K004StandInMasterKeyNotASecret0
python -c 'import secrets; print(secrets.token_urlsafe(24))' > vault-password
export ANSIBLE_VAULT_PASSWORD_FILE=$work/vault-password
export ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false ANSIBLE_FORKS=10
unset ANSIBLE_CONFIG

step "Ten customers get an account each, and their keys go into Ansible Vault"
run cat customers.yml
run ansible-playbook community.backblaze.provision -e @customers.yml | tee first.log

step "Once more: nothing is left to do"
run ansible-playbook community.backblaze.provision -e @customers.yml | tee second.log
grep -q 'changed=0' second.log

step "The members are inventory hosts, grouped by region"
run cat customers.b2_group_members.yml
run ansible-inventory -i customers.b2_group_members.yml --graph

step "One vault file (its key is a stand-in's, so it may be shown)"
run ansible-vault view host_vars/ada@customers.example.com/b2_vault.yml

step "One task over all hosts: each member authorizes with its own key"
run ansible-playbook -i customers.b2_group_members.yml authorize.yml | tee authorize.log

step "Summary"
keys=$(python "$here/../utils/ledger.py" "$B2_ENVIRONMENT" host_vars vault-password)
cat <<SUMMARY
  first run      $(grep -o 'changed=[0-9]*' first.log), $(grep -o 'created: [0-9]*' first.log)
  second run     $(grep -o 'changed=[0-9]*' second.log), $(grep -o 'unchanged: [0-9]*' second.log)
  inventory      $(ansible-inventory -i customers.b2_group_members.yml --list | grep -c '"b2_account_id"') hosts
  authorized     $(grep -c 'ok=1 .*failed=0' authorize.log) members, each with its own key
  ledger, vault  $keys
  all of it      in $((SECONDS - started)) seconds; the files are in .build/demo
SUMMARY
