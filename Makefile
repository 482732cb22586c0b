# Two commands: `make demo` runs the main job, `make test` proves it. Each installs what it needs first.
.PHONY: help install demo test lint coverage format clean

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Airflow starts a process for each task, and one that may not keep what it has compiled compiles all it imports again.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo     train a model, publish it, run a year of flights through it in a real Airflow"
	@echo "make test     check style, types and layers, then run all tests"
	@echo "make install  only create $(VENV)"
	@echo "make lint     only style, types and layers"
	@echo "make coverage which lines the tests run, in one process (half an hour)"
	@echo "make format   rewrite the code in the project's style"
	@echo "make clean    remove what the other targets have made"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install.sh
	@scripts/install.sh $(VENV)
	@touch $@

demo: $(STAMP)
	@$(PYTHON) -m demo

lint: $(STAMP)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

test: lint
	@scripts/install_programs.sh
	@$(PYTHON) -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder

coverage: $(STAMP)
	@$(VENV)/bin/coverage erase
	@$(VENV)/bin/coverage run -m pytest
	@$(VENV)/bin/coverage report

format: $(STAMP)
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
