# paymesh. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin
DIR ?= var/stack

.PHONY: help
help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

.PHONY: demo
demo: .venv/.runtime  ## run the whole system in one process and watch orders be paid, cashed out and refunded
	@$(BIN)/meshctl demo $(ARGS)

.PHONY: test
test: servers lint  ## run every check and every test, on private MariaDB and NATS servers (ARGS="-k name" for some)
	@echo "tests …"
	@$(BIN)/python -m pytest $(or $(ARGS),--numprocesses 2 --dist loadfile)

.PHONY: lint
lint: .venv/.dev  ## check style, types, imports, the stubs and the contract
	@echo "ruff …" && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo "mypy …" && $(BIN)/mypy --no-error-summary
	@echo "imports …" && $(BIN)/lint-imports --no-logo
	@echo "stubs …" && scripts/protos fresh
	@echo "contract …" && scripts/protos contract

.PHONY: format
format: .venv/.dev  ## put the code into the one format
	@$(BIN)/ruff check --quiet --fix . && $(BIN)/ruff format --quiet .

.PHONY: protos
protos: .venv/.dev  ## regenerate the stubs in paymesh/ from protos/
	@scripts/protos generate

.PHONY: protos-release
protos-release: .venv/.dev  ## make the contract as it is the one that later ones must not break
	@scripts/protos release

.PHONY: bench
bench: servers .venv/.dev  ## measure, on private MariaDB and NATS servers; prints the tables of docs/performance.md
	@$(BIN)/python -m bench $(ARGS)

.PHONY: faults
faults: servers .venv/.dev  ## kill every part of the full stack during 2,000 purchases, then check (ARGS="500" for fewer)
	@GRPC_VERBOSITY=ERROR $(BIN)/python -m tests.faults $(ARGS)

.PHONY: adversary
adversary: servers .venv/.dev  ## make 10,000 orders against a provider that does everything wrong, then compare all books (ARGS="500 --seed 7")
	@GRPC_VERBOSITY=ERROR $(BIN)/python -m tests.adversary $(ARGS)

.PHONY: model
model: servers .venv/.dev  ## drive both cores through 200,000 steps against a plain model (ARGS="--seed 7 --backend sqlite")
	@$(BIN)/python -m tests.model $(ARGS)

.PHONY: up
up: servers .venv/.runtime  ## start the full stack: two MariaDB servers, NATS, each service its own process
	@$(BIN)/meshctl up --dir $(DIR)

.PHONY: down
down: .venv/.runtime  ## stop what make up started
	@$(BIN)/meshctl down --dir $(DIR)

.PHONY: pins
pins:  ## pin the newest versions that pyproject.toml allows, in constraints.txt
	@scripts/pins $(PYTHON)

.PHONY: clean
clean:  ## stop the stack and remove everything that is made, its data included
	@[ ! -d $(DIR) ] || [ ! -x $(BIN)/meshctl ] || $(BIN)/meshctl down --dir $(DIR)
	@rm -rf .venv node_modules var build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: servers
servers:
	@scripts/servers

.venv/.runtime: pyproject.toml constraints.txt
	@scripts/venv $(PYTHON) '.'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt
	@scripts/venv $(PYTHON) '.[dev]'
	@touch .venv/.runtime $@
