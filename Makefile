# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Needs git, make, sshd and one Python >= 3.11. Another one: make PYTHON=/path/to/python3.13 test
# Once .venv stands it is kept until PYTHON names another version or the requirements change.
PYTHON ?= $(or $(wildcard .venv/bin/python),python3)
TOOL = .venv/bin/python tests/tools
# The longest first: some run at a time. integration, artifact and vault are in cores, on the oldest and newest ansible-core.
STEPS = cores locations faults sanity lint units job examples awx molecule docs clients

# With this set every Python of every step would compile all its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo demo sandbox test $(STEPS) integration artifact vault ee campaign matrix mutants bench build errors-page steps release release-check clean

help: ## List the targets
	@sed -n 's/^\([a-z -]*\):.*## /\1\t/p' Makefile | expand -t 60

setup: ## Make .venv with everything the tests need
	@"$(PYTHON)" tests/tools/setup.py tests/requirements.txt

setup-demo:
	@"$(PYTHON)" tests/tools/setup.py tests/requirements-demo.txt

demo: setup-demo ## Try the collection against a stand-in for Backblaze (no account needed)
	@$(TOOL)/tree.py
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/.build/tree" tests/demo/demo.sh

sandbox: setup-demo ## Open a shell with a stand-in for Backblaze, 12 members and a command for each fault
	@$(TOOL)/tree.py
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/.build/tree" .venv/bin/python tests/sandbox/sandbox.py

test: setup ## Run every step below, one verdict
	@$(TOOL)/steps.py $(STEPS)

cores locations faults sanity lint units job examples awx molecule docs clients integration artifact vault: setup ## Run this step alone
	@$(TOOL)/steps.py $@

ee: setup ## Build an execution environment with podman, and run jobs in it: make ee [BASE=registry.example.com/image]
	@$(TOOL)/steps.py $@

campaign: setup ## Kill, break and starve runs for long, and count keys
	@CAMPAIGN=long $(TOOL)/steps.py faults locations vault

matrix: setup ## Run what depends on ansible-core and Python on every pair: make matrix [PAIRS="2.18-3.11 2.20-3.13"]
	@$(TOOL)/matrix.py $(PAIRS)

mutants: ## Change the code in small ways and count what the tests notice: make mutants [FILES="_plan journal"] [MUTANTS=all]
	@"$(PYTHON)" tests/tools/setup.py tests/requirements-core.txt "$(CURDIR)/.build/mutants/venv" mutmut==3.8.1
	@MUTANTS="$(MUTANTS)" .build/mutants/venv/bin/python tests/tools/mutants.py $(FILES)

bench: setup ## Measure provisioning and the inventory at scale (half an hour; see tests/bench/README.md)
	@.venv/bin/python tests/bench/bench.py

build: setup-demo ## Build the collection's artifact into .build
	@$(TOOL)/artifact.py build

errors-page: setup ## Write the guide to errors anew, from the tables in the code
	@$(TOOL)/errors_page.py

steps: # For CI, which runs each on a machine of its own
	@echo $(STEPS)

release: setup ## Set the version and write the changelog: make release VERSION=0.2.0
	@$(TOOL)/release.py "$(VERSION)"

release-check: setup-demo # For CI, which publishes what a tag names
	@$(TOOL)/release.py --check "$(VERSION)"

clean: ## Remove .venv, .nox and .build
	@# Where root did not build it, the files of an image can be removed in the user's namespace only.
	@if [ -d .build/ee/storage ] && [ "$$(id -u)" != 0 ]; then podman unshare rm -rf .build/ee; fi
	rm -rf .venv .nox .build
