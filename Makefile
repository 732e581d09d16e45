# gan3d. `make demo` and `make test` work in a fresh clone: each makes the virtual environment first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
DEMO_HEADS := 2000
DEMO_TIME := 00:00:05:00
# One thread per process: more do not pay for small images, and cost a lot on a busy machine.
# `env`, so that make starts it without a shell between them: a signal to make reaches it.
ONE_THREAD := env OMP_NUM_THREADS=1 MPLBACKEND=Agg
PYTEST_ARGS ?= -n 2

.PHONY: help venv demo test test-all lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP)  ## the virtual environment, with gan3d in it

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,apps]'
	-$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
		--only-binary pyspng pyspng  # the extra `png`, where there is a wheel of it
	touch $(STAMP)

demo: venv  ## pictures of trained models, then heads, five minutes of training, and the report: runs/demo; again: go on
	test -e $(DEMO)/zoo/eg3d_heads32/sheet.png || $(ONE_THREAD) $(BIN)/gan3d sample eg3d_heads32 --seeds 0-7 \
		--yaw=-0.6,-0.3,0,0.3,0.6 --sheet true --out $(DEMO)/zoo/eg3d_heads32
	test -e $(DEMO)/zoo/side_by_side/orbit.mp4 || $(ONE_THREAD) $(BIN)/gan3d video eg3d_heads32 \
		--beside cips3d_heads32,gram_heads32 --seeds 0-8 --out $(DEMO)/zoo/side_by_side/orbit.mp4
	test -e $(DEMO)/zoo/eg3d_heads32/mesh.mp4 || $(ONE_THREAD) $(BIN)/gan3d mesh eg3d_heads32 --seeds 3 \
		--turntable true --out $(DEMO)/zoo/eg3d_heads32/mesh.glb --overwrite true
	@echo "trained models, to look at while the demo trains one: $(DEMO)/zoo"
	test -e $(DEMO)/heads32.zip || $(ONE_THREAD) $(BIN)/gan3d data heads --out $(DEMO)/heads32.zip \
		--num $(DEMO_HEADS) --resolution 32
	$(ONE_THREAD) $(BIN)/lightning fit --config eg3d_heads32.yaml --data.path $(DEMO)/heads32.zip \
		--run_dir $(DEMO) --threads 1 --trainer.max_time $(DEMO_TIME) --resume auto
	$(ONE_THREAD) $(BIN)/gan3d report $(DEMO)

test: venv  ## the test suite, as CI runs it
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow"

test-all: venv  ## the whole test suite, slow tests included
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: venv  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what is built, not the runs
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
