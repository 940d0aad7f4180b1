# `make run` and `make test` need only Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# One worker per core; idle workers take over tests of the others.
WORKERS := -n auto --dist worksteal
PYTEST := $(BIN)/python -m pytest $(WORKERS)
COVERED := $(BIN)/coverage run -m pytest $(WORKERS)
KERNEL_TESTS := $(addprefix tests/test_, kernels.py overlap.py parallel.py program.py sharing.py threads.py \
    tile_assembly.py training_program.py winograd.py)
SHAPE_TESTS := $(KERNEL_TESTS) $(addprefix tests/test_, attacks.py compiler.py fuzz.py vae.py)
# What Numba is told to compile for: processors with AVX2 but without AVX-512, and any x86-64.
AVX2 := NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,$\
+invpcid,+lzcnt,+mmx,+movbe,+pclmul,+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt
BASELINE := NUMBA_CPU_NAME=x86-64 NUMBA_CPU_FEATURES=+64bit,+cmov,+cx8,+fxsr,+mmx,+sse,+sse2

.PHONY: run test test-stress test-fast test-avx2 test-baseline arm fuzz fuzz-readers parity coverage art bench lint format \
    docs wheel release clean

run: $(VENV)/installed-run
	$(BIN)/python -m hlf_np run $(ARGS)

test: $(VENV)/installed-test
	$(PYTEST) -m "not stress" $(ARGS)

# What takes long: runs that are repeated, interrupted and killed, more random networks, notebooks, browsers, ART.
test-stress: $(VENV)/installed-test
	$(PYTEST) -m stress $(ARGS)

test-fast: $(VENV)/installed-test
	$(PYTEST) -m "not slow and not stress" $(ARGS)

# The kernels as they are compiled for other processors than this one.
test-avx2: $(VENV)/installed-test
	$(AVX2) $(PYTEST) -m "not slow" $(SHAPE_TESTS) $(ARGS)

test-baseline: $(VENV)/installed-test
	$(BASELINE) $(PYTEST) -m "not slow" $(SHAPE_TESTS) $(ARGS)

# The kernels on emulated ARM (Debian or Ubuntu; not part of CI), without batches of 100 and a network that take minutes.
arm:
	tests/arm.sh $(WORKERS) -m "not slow" -k "not 100- and not a_large_network" $(KERNEL_TESTS) $(ARGS)

# Compare all implementations on random networks: make fuzz ARGS="--count 10000 --first 0 --workers 2 --reduce"
fuzz: $(VENV)/installed-test
	$(BIN)/python tests/fuzz.py $(ARGS)

# Read damaged dataset files of every format: make fuzz-readers ARGS="--count 3000"
fuzz-readers: $(VENV)/installed-test
	$(BIN)/python tests/fuzz_readers.py $(ARGS)

# Compare with PyTorch. Install its CPU build beforehand if it is not on the default package index.
parity: $(VENV)/installed-parity
	$(PYTEST) -m parity $(ARGS)

# Measure line and branch coverage. The kernels run without compilation, since compiled code cannot be traced; the large
# ResNet and VGG would take minutes this way and are left out.
coverage: $(VENV)/installed-test $(VENV)/installed-art $(VENV)/installed-coverage
	$(BIN)/coverage erase
	NUMBA_DISABLE_JIT=1 $(COVERED) -m "not slow and not parity" -k "not resnet] and not vgg]" $(KERNEL_TESTS)
	$(COVERED) -m "not parity" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Test the models as estimators of the Adversarial Robustness Toolbox.
art: $(VENV)/installed-test $(VENV)/installed-art
	$(BIN)/python -m pytest tests/test_art.py $(ARGS)

bench: $(VENV)/installed-test
	$(BIN)/python -m pytest bench --benchmark-only $(ARGS)

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The API reference; a warning is an error.
docs: $(VENV)/installed-run $(VENV)/installed-docs
	$(BIN)/python -W error::UserWarning -m pdoc hlf_np -d numpy --math -o build/docs

# The wheel and the source distribution, checked as a package index would.
release: $(VENV)/installed-release
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# Build the wheel, install it into a separate environment and run it outside the source tree.
wheel: $(VENV)/installed-run
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf $(VENV)/wheel && $(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/pip install --quiet dist/*.whl
	cd $$(mktemp -d) && $(CURDIR)/$(VENV)/wheel/bin/python -m hlf_np run --preset smoke --out results

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e .[$*]
	touch $@

clean:
	rm -rf .coverage* dist build results .benchmarks .hypothesis .mypy_cache .ruff_cache
	find hlf_np tests bench fonts -name __pycache__ -type d -prune -exec rm -rf {} +
