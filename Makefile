# `make demo` and `make test` do everything on a fresh machine: no other step is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test lint unit drill peers bench fuzz wheel clean

demo: $(VENV)/installed
	$(BIN)/hrtem-stream demo

test: $(VENV)/developed lint unit

lint: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests that start the processes of a pipeline spend half of their time waiting: two files at a time.
unit: $(VENV)/developed
	$(PYTEST) -n 2 -m "not slow and not gpu and not processes and not peers"
	$(PYTEST) -n 2 --dist loadfile -m "processes and not slow and not gpu and not peers"

# About a minute of faults against a session; see `hrtem-stream drill --help`.
drill: $(VENV)/installed
	$(BIN)/hrtem-stream drill --quick

# Simulated detectors of other makers take minutes to install, so no other target needs them.
peers: $(VENV)/developed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[peers]"
	$(PYTEST) -m peers

# Ten minutes; what failed is kept under fuzz-failures/. FUZZ="--seconds 3600 --seed 2" for more.
fuzz: $(VENV)/developed
	$(BIN)/python -W ignore -m tests.fuzz $(FUZZ)

bench: $(VENV)/developed
	$(BIN)/python -m bench --output bench/results/$(shell date +%F).json

# dist/*.whl and dist/*.tar.gz; weights and examples of settings are in them.
wheel: $(VENV)/developed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build
	$(BIN)/python -m build --outdir dist .

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[unet,openvino,web]"
	touch $@

$(VENV)/developed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[unet,openvino,web,dev,viewers,direct-electron,formats,cluster]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dectris]" \
	|| echo "dectris-compression needs a C++ compiler: DECTRIS detectors are not tested"
	touch $@

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
