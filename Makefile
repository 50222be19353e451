PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: run test bench soak

run: .venv/.installed
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py prepare
	@exec $(BIN)/honcho start

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/pytest

.venv/.installed: requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks.bench $(BENCH)

soak: .venv/.installed-bench
	$(BIN)/python -m benchmarks.soak $(SOAK)

.venv/.installed-bench: benchmarks/requirements.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	@touch $@
