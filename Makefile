# make help lists the targets. A bare clone needs Python >= 3.11 with venv, make and git; the rest is installed into
# .venv by scripts/bootstrap.sh. PYTHON= and VENV= choose others; JOBS= is how many tests run at once.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
TESTS ?= tests
BIN := $(VENV)/bin
BOOTSTRAP := PYTHON=$(PYTHON) VENV=$(VENV) scripts/bootstrap.sh

.PHONY: help run test check trial bench torture powercut docs clean
help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## a demonstration: starts everything under ./var and shows mail going through (ARGS=--once: then stops)
	@$(BOOTSTRAP) run
	@$(BIN)/python -m qmailpy.app.demo $(ARGS)

test: ## installs what tests need, then check and trial
	@$(BOOTSTRAP) test
	@$(MAKE) --no-print-directory check trial

check: ## format, lint, types, import contracts
	$(BIN)/ruff format --check qmailpy tests twisted benchmarks
	$(BIN)/ruff check qmailpy tests twisted benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

trial: ## the tests alone (TESTS=tests.queue: some of them)
	$(BIN)/python -m twisted.trial -j$(JOBS) $(TESTS)

bench: ## speed beside Debian's Postfix, and Dovecot's POP3; writes docs/performance.md
	@$(BOOTSTRAP) test
	$(BIN)/python -m benchmarks.bench $(ARGS)
	$(BIN)/python -m benchmarks.pop3

torture: ## the real daemon under load, killed again and again; nothing acknowledged may be lost
	@$(BOOTSTRAP) test
	$(BIN)/python -m benchmarks.torture $(ARGS)

powercut: ## the same with the power of its disk cut (root)
	@$(BOOTSTRAP) test
	$(BIN)/python -m benchmarks.powercut $(ARGS)

docs: ## the programmer's reference, into docs/api
	@$(BOOTSTRAP) test
	@# 2: docstrings with tables, which are shown as they stand
	$(BIN)/pydoctor -q --project-name=qmailpy --docformat=epytext --html-output=docs/api --make-html qmailpy || [ $$? -eq 2 ]
	@echo "written to docs/api/index.html"

clean: ## removes what make made, but no home
	rm -rf $(VENV) build dist docs/api .mypy_cache .ruff_cache .import_linter_cache .hypothesis _trial_temp*
