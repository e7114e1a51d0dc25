# Every target works on a fresh machine that has Python 3.11 or later: the first one to run makes .venv.
# `make demo TORCH=` keeps the torch that pip finds for itself; `make test T=tests/unit` runs a part.

PYTHON ?= python3
TORCH ?= torch==2.13.0
T ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test tables lint clean

demo: $(STAMP)
	$(BIN)/nbkv demo -o runs/demo

# One torch thread a worker: two with two threads each fight over two cores, and whoever else runs makes it worse.
test: $(STAMP)
ifneq ($(T),)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q $(T)
else
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q --ignore=tests/notebooks --ignore=tests/quantised --ignore=tests/kernels
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/triton $(BIN)/pytest -n 2 -q tests/kernels
	OMP_NUM_THREADS=1 PYTHONPATH=$(VENV)/torchao $(BIN)/pytest -q tests/quantised
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/notebooks
endif

tables: $(STAMP)
	$(BIN)/python tests/families/survey.py
	$(BIN)/python -m nbkv.tasks.tables
	$(BIN)/python -m nbkv.tasks.keeping

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# torchao and triton lie apart: transformers and torch change their ways as soon as they find them.
# The big wheel first, so that nothing else decides which torch it is.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nbkv needs Python 3.11 or later")'
	$(PYTHON) -m venv --clear $(VENV)
	$(if $(TORCH),$(BIN)/python -m pip install -q -c constraints.txt $(TORCH))
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps --target $(VENV)/torchao torchao
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps --target $(VENV)/triton triton
	touch $@
