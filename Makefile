# On a fresh machine: `make demo` and `make test`. Each makes its own virtual environment.
#   make serve      the web page of the model that `make demo` trained
#   make quick      before each commit: linting, types and the fast tests, about two minutes on two cores
#   make test       linting, types and every test that is not marked slow
#   make test-slow  the tests marked slow: repetitions of benchmarks, the tutorial, notebooks, JAX, killed trainings
#   make lint       ruff and the import layers alone

PYTHON ?= python3
LIGHT := .venv
TEST := .venv-test

.PHONY: demo serve quick test test-slow lint check install clean

demo: install
	$(LIGHT)/bin/tailorbird demo

serve: install
	@test -f tailorbird-demo/wardrobe.onnx || $(LIGHT)/bin/tailorbird demo
	@echo 'Open the address below in a browser; Ctrl-C ends it.'
	$(LIGHT)/bin/tailorbird serve -q tailorbird-demo/wardrobe.onnx

install: $(LIGHT)/installed

$(LIGHT)/installed: pyproject.toml $(shell find src -type f -not -name '*.pyc' 2>/dev/null)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "tailorbird needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/pip install --quiet --disable-pip-version-check '.[serve]'
	@touch $@

$(TEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(TEST)/bin/pip install --quiet --disable-pip-version-check --editable '.[serve,postgres,keras,torch,ray]' --group test
	@touch $@

PYTEST := $(TEST)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(TEST)/installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/lint-imports

check: lint
	$(TEST)/bin/mypy

quick: check
	$(PYTEST) --ignore tests/engines/keras --ignore tests/engines/torch --ignore tests/cluster -m "not (slow or long or keras or torch or ray or browser or process or postgres)"

test: check
	$(PYTEST) -m "not slow"

test-slow: $(TEST)/installed
	$(PYTEST) -m slow

clean:
	rm -rf $(LIGHT) $(TEST)
