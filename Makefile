# Two commands for a newcomer: make demo, make test. The rest is for those who change things.
PYTHON ?= python3
BIN := .venv/bin
HOST ?= 127.0.0.1
PORT ?= 8000
# Two processes of one thread each are faster than two of two on two cores. Each begins with half of the tests as they
# stand, so that most files, and what is dear to start for them, are one process's; who is done first takes from the other.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

.PHONY: demo test lint types imports tests test-all bench soundness figures clean

demo: .venv/installed demo/two-moons.onnx demo/digits.onnx
	$(BIN)/lipserve --models demo --host $(HOST) --port $(PORT)

demo/%.onnx: | .venv/installed
	$(BIN)/lipmodel train $* --out demo --force

test: lint types imports tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

imports: .venv/installed
	$(BIN)/lint-imports

tests: .venv/installed
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: lint types imports
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist worksteal

# Speed in process and at the start; other servers and libraries to compare with have scripts of their own.
bench: .venv/installed
	$(ONE_THREAD) $(BIN)/python -m benchmarks.certificate_cost
	$(ONE_THREAD) $(BIN)/python -m benchmarks.cold_start

# The soundness suite at full size: minutes. Its small form is part of the tests.
soundness: .venv/installed
	$(ONE_THREAD) $(BIN)/python -m benchmarks.soundness

figures: .venv/installed
	$(BIN)/lipmodel figures --out out/figures

# One environment for everything; made again when what it is made of changes.
.venv/installed: pyproject.toml constraints.txt
	@echo 'installing into .venv; the first time takes a few minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo demo.state out build *.egg-info
