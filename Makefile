# make demo: install, then train, evaluate and draw a Mask R-CNN on generated data.
# make test: install, then run the tests.     Everything else is for developers.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_CONFIG ?= configs/demo/mask_rcnn_r2_50_fpn_demo.py
DEMO_DIR ?= work_dirs/demo
DEMO_DATA ?= data/demo
# a process per core, whole files each
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist loadfile

.PHONY: help install install-tests demo demo-data docs test slow long tv parity check lint format types clean

help:
	@echo 'make demo     install, generate data, train, evaluate, draw (15 minutes on 2 slow cores)'
	@echo 'make test     install and run the tests'
	@echo 'make install  only install, into $(VENV)   [TORCH=torch==X.Y.Z  VENV=dir]'
	@echo 'make check    what CI checks besides the tests: lint, format, types, spelling'
	@echo 'make docs     build the documentation site, into docs/_build'
	@echo 'make format   rewrite the code in the project style'
	@echo 'make slow     the tests that take minutes;   make long: those that take tens of them'
	@echo 'make parity   comparison with mmdetection'

install:
	@$(PYTHON) tools/install.py --venv $(VENV)

install-tests:
	@$(PYTHON) tools/install.py --venv $(VENV) --extras tests

demo-data: install
	@$(BIN)/python tools/misc/make_demo_data.py $(DEMO_DATA)

demo: demo-data
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	$(BIN)/python tools/test.py $(DEMO_CONFIG) "$(DEMO_DIR)/$$(cat $(DEMO_DIR)/last_checkpoint)" \
		--eval bbox segm --work-dir $(DEMO_DIR) --show-dir $(DEMO_DIR)/pictures
	@echo
	@echo 'Ground truth beside predictions: $(DEMO_DIR)/pictures'
	@echo 'Next: $(BIN)/mmdet-r2 predict $(DEMO_DATA)/val $(DEMO_DIR) --out-dir outputs'
	@echo 'and with images of your own: docs/your_data.md'

docs:
	@$(PYTHON) tools/install.py --venv $(VENV) --extras docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build
	@echo 'docs/_build/index.html'

test: install-tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

slow: install-tests
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

long: install-tests
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

# beside torchvision, in an environment of its own
tv:
	@$(PYTHON) tools/install.py --venv .venv-tv --torch torch==2.14.1 --extras vision
	@.venv-tv/bin/python -m pip install --quiet pytest pytest-timeout pytest-xdist
	.venv-tv/bin/python -m pytest -m tv $(PYTEST_ARGS)

parity: install-tests
	$(BIN)/python -m pytest -m parity $(PYTEST_ARGS)

check: install-tests
	@$(MAKE) --no-print-directory lint types

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types:
	$(BIN)/mypy

format: install-tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
