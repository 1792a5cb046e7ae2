# make demo: from text to a pre-trained ELECTRA. make test: the test suite. Both install first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow test-gpu lint clean

install: .venv/installed

.venv/installed: setup.py electra_tf/version.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[test]'
	touch $@

# CORPUS='texts/*.txt' takes your own text.
demo: install
	$(BIN)/python -m electra_tf.commands.demo --output_dir=runs/demo $(if $(CORPUS),--corpus='$(CORPUS)')

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Files in the order of their names: else those with few tests, some of them long, come last, and one
# process waits for the other.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest -m slow

test-gpu: install
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf .venv runs build dist *.egg-info
