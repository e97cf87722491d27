# make help lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run test check bench torture powercut docs clean
help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ## format, lint, types, import contracts
	$(BIN)/ruff format --check qmailpy tests twisted
	$(BIN)/ruff check qmailpy tests twisted
	$(BIN)/mypy
	$(BIN)/lint-imports
