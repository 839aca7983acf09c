# make demo and make test are for users; the other targets are for developers.
PYTHON ?= python3
BIN := .venv/bin
HOST ?= 127.0.0.1
PORT ?= 8000
# One thread each is faster than two. Tests of servers, pages and commands wait for other processes a quarter of the time: three
# workers keep two cores busy. Each worker starts with a third of the tests in file order, so expensive fixtures are built
# once; an idle worker steals from the others.
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
	$(ONE_THREAD) $(BIN)/pytest -n 3 --dist worksteal -m "not slow"

test-all: lint types imports
	$(ONE_THREAD) $(BIN)/pytest -n 3 --dist worksteal

# Speed in process and at start; comparisons with other servers and libraries have separate scripts.
bench: .venv/installed
	$(ONE_THREAD) $(BIN)/python -m benchmarks.certificate_cost
	$(ONE_THREAD) $(BIN)/python -m benchmarks.cold_start

# The full soundness suite takes minutes; the tests contain a small form.
soundness: .venv/installed
	$(ONE_THREAD) $(BIN)/python -m benchmarks.soundness

figures: .venv/installed
	$(BIN)/lipmodel figures --out out/figures

# One environment for all targets, rebuilt when its inputs change.
.venv/installed: pyproject.toml constraints.txt
	@echo 'installing into .venv; the first installation takes a few minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo demo.state out build *.egg-info
