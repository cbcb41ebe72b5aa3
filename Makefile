# Needs Python 3.11 or newer and Linux; everything else is fetched by tools/environment.py.
PYTHON ?= python3
VENV = .venv/bin/python
PORT ?= 8188
COMFY ?= comfy
# A file's tests stay with one worker: they share servers and models.
WORKERS ?= -n auto --dist loadfile
DEMO ?= output/demo.png
LINT = $(VENV) -m ruff check . && $(VENV) -m ruff format --check . && $(VENV) -m mypy

.PHONY: demo evaluate serve test test-fast test-core test-parity test-host test-browser test-oldest test-long lint format
.PHONY: environment docs images workflows screenshots locales node-contract

demo: environment  ## make README's nine images with the bundled model in a real ComfyUI
	$(VENV) -m tools.demo --out $(DEMO)

evaluate: environment  ## how often the bundled model does what it is told, and which of its parts errs
	$(VENV) -m blip3o_core recipe parts --speed --json output/tiny.json --grid output/tiny.png

serve: environment  ## ComfyUI with this pack, for a human; images stay in COMFY, MODELS is a models folder of yours
	$(VENV) -m tools.serve --base "$(COMFY)" --port $(PORT) $(if $(MODELS),--models "$(MODELS)")

test:
	$(PYTHON) tools/environment.py --browser
	$(LINT)
	$(VENV) -m pytest -rs $(WORKERS)

test-fast: environment  ## the library's quick tests: for the inner loop
	$(VENV) -m pytest -q $(WORKERS) -m "core and not slow"

test-core test-parity test-host test-browser: test-%: environment
	$(VENV) -m pytest -rs $(WORKERS) -m $*

test-long: environment  ## attacks, kills and load that take minutes each
	$(VENV) -m pytest -rs -n0 --long -m long

test-oldest:  ## the library alone, with the lowest versions requirements.txt allows
	$(PYTHON) tools/environment.py --oldest
	.venv-oldest/bin/python -m pytest -rs $(WORKERS) -m "core or parity"

lint: environment  ## what `make test` asks first: rules, layout and types, in seconds
	$(LINT)

format: environment  ## lay out all files, sort their imports
	$(VENV) -m ruff check --fix-only --select I .
	$(VENV) -m ruff format .

docs: environment  ## the pages as a site in output/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(VENV) -m mkdocs build --strict
	@echo output/site/index.html

workflows: environment  ## rewrite workflows/*.json, their thumbnails and subgraphs/*.json through ComfyUI's frontend
	$(VENV) -m tools.workflows
	$(VENV) -m tools.blueprints

images: environment  ## make README's animation and the gallery's images anew with the bundled model
	$(VENV) -m tools.images

screenshots: environment  ## take the screenshots of workflows in README and docs anew
	$(VENV) -m tools.screenshots

locales: environment  ## rewrite locales/en from the names and tooltips of the nodes
	$(VENV) -m tools.schemas locales

node-contract: environment  ## rewrite the test's record of ids, inputs and values, after a change that was meant
	$(VENV) -m tools.schemas contract

environment:
	@$(PYTHON) tools/environment.py
