# Needs Python 3.11 or newer and Linux; everything else is fetched by tests/environment.py.
PYTHON ?= python3
VENV = .venv/bin/python
PORT ?= 8188

.PHONY: demo serve test test-core test-parity test-host test-browser test-oldest lint format environment workflows

demo: environment  ## draw the sample workflow on a tiny random model, through a real ComfyUI
	$(VENV) -m tests.host.demo

serve: environment  ## ComfyUI with this pack and the tiny model, for a human
	$(VENV) -m tests.host.demo --serve --port $(PORT)

test:
	$(PYTHON) tests/environment.py --browser
	$(VENV) -m ruff check .
	$(VENV) -m pytest -rs

test-core test-parity test-host test-browser: test-%: environment
	$(VENV) -m pytest -rs -m $*

test-oldest:  ## the library alone, with the lowest versions requirements.txt allows
	$(PYTHON) tests/environment.py --oldest
	.venv-oldest/bin/python -m pytest -rs -m "core or parity"

lint: environment
	$(VENV) -m ruff check .

format: environment
	$(VENV) -m ruff format .

workflows: environment  ## rewrite workflows/*.json through ComfyUI's own frontend
	$(VENV) -m tests.browser.workflows

environment:
	@$(PYTHON) tests/environment.py
