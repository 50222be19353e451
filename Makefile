PYTHON ?= python3.11
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile

.PHONY: run test test-slow checks tests bench quality soak

run: .venv/.installed
	@$(BIN)/python manage.py prepare
	@exec $(BIN)/python -m imagesearch.supervise

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory --jobs=2 checks tests

# What takes long: kills at many moments, servers as they are started in production, and many more of the inputs that
# `make test` invents few of.
test-slow: .venv/.installed-dev
	$(PYTEST) -m "slow or fuzz" --hypothesis-profile=deep

checks:
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

tests:
	$(PYTEST) -m "not slow"

.venv/.installed: requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/.installed-dev: requirements-dev.txt requirements-scale.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks.bench $(BENCH)

quality: .venv/.installed-bench
	nice $(BIN)/python -m benchmarks.quality $(QUALITY)

soak: .venv/.installed-bench
	$(BIN)/python -m benchmarks.soak $(SOAK)

.venv/.installed-bench: benchmarks/requirements.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	@touch $@
