PYTHON ?= python3.11
BIN := .venv/bin
MILVUS_TESTS := tests/engine/index/test_search_index_contract.py tests/engine/index/test_milvus_server.py \
	tests/search/test_milvus.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile

.PHONY: run cluster test test-slow test-scale checks tests bench quality soak

run: .venv/.installed
	@$(BIN)/python manage.py prepare
	@exec $(BIN)/python -m imagesearch.supervise

# What docs/scaling.md spreads over machines, on this one: PostgreSQL, Redis, an S3 server, two servers, two workers.
cluster: .venv/.installed-cluster
	@exec $(BIN)/python -m imagesearch.cluster

test: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory --jobs=2 checks tests

# What takes long: kills at many moments, servers as they are started in production, and many more of the inputs that
# `make test` invents few of.
test-slow: .venv/.installed-dev
	$(PYTEST) -m "slow or fuzz" --hypothesis-profile=deep

# What is past one machine, on a real Milvus: the newest of PyPI, in an environment of its own.
test-scale: .venv/.installed-dev .venv-scale/.installed
	TEST_MILVUS=.venv-scale/bin/python $(BIN)/pytest --log-cli-level=INFO $(MILVUS_TESTS)

checks:
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

tests:
	$(PYTEST) -m "not slow and not scale"

.venv-scale/.installed:
	@test -x .venv-scale/bin/python || $(PYTHON) -m venv .venv-scale
	.venv-scale/bin/python -m pip install --quiet milvus==2.3.5
	@touch $@

.venv/.installed: requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/.installed-dev: requirements-dev.txt requirements-scale.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

.venv/.installed-cluster: requirements-scale.txt requirements-dev.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-scale.txt --constraint requirements-dev.txt \
		moto flask flask-cors py-partiql-parser
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
