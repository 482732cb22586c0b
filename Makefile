# `make demo` runs an example execution, `make test` runs all tests. Each target first installs what it needs.
.PHONY: help install demo check check-all lint test soak bench coverage format clean

# Each interpreter has its own environment: make check PYTHON=python3.12
PYTHON :=
VENV := .venv$(addprefix -,$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --dist loadscope --no-loadscope-reorder --numprocesses

# Airflow starts a process per task; without bytecode files, each would recompile everything it imports.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo      train a model, publish it, run a year of flights through it in a real Airflow"
	@echo "make check     style, types, layers, and all tests that need neither a server nor a browser"
	@echo "make test      the same, and all other tests except soak"
	@echo "make soak      kill processes of a real Airflow at random, and search for new examples for property tests"
	@echo "make bench     measure beside the peers, for about an hour; writes benchmarks/RESULTS.md"
	@echo "make check-all make check with every installed Python from 3.11 to 3.13"
	@echo "make install   only create $(VENV)"
	@echo "make lint      only style, types and layers"
	@echo "make coverage  report the lines that the tests cover, in one process (half an hour)"
	@echo "make format    rewrite the code in the project's style"
	@echo "make clean     remove everything that the other targets created"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install.sh
	@scripts/install.sh $(VENV) $(PYTHON)
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m demo

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint
	@$(PYTEST) 4 -m "not server" tests/component tests/contract

check-all:
	@for python in python3.11 python3.12 python3.13; do \
		if command -v $$python >/dev/null; then \
			echo "With $$python:"; $(MAKE) check PYTHON=$$python || exit 1; \
		fi; \
	done

test: lint
	@scripts/install_programs.sh
	@$(PYTEST) 4

soak: $(STAMP)
	@$(BIN)/python -m pytest tests/soak -o log_cli=true --log-cli-level=WARNING
	@BATCHEXEC_TEST_EXAMPLES=search $(PYTEST) 3 -m "hypothesis and not server" tests/component

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

coverage: $(STAMP)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage report

format: $(STAMP)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:
	rm -rf .venv .venv-* .bench .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
