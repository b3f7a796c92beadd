# `make train` and `make test` set up what they need; see README.md.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow check format bench sanitize clean

train: .venv/ready
	@echo "== training on the bundled tale: about three minutes on two cores; Ctrl-C saves"
	$(BIN)/headgate train

# Two processes with one thread each: most of the time is spent in single-threaded Python.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: .venv/test-ready
	$(PYTEST) -m "not slow"

# Tests that take more than about ten seconds: examples, the code blocks of the docs, recipes, kills, several processes.
test-slow: .venv/test-ready
	$(PYTEST) -m slow

check: .venv/test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_rooms.py

format: .venv/test-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Run it alone on the machine; about twenty minutes. A missed goal does not stop the rest: read the verdicts.
bench: .venv/test-ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt onnx onnxruntime openvino
	$(BIN)/python benchmarks/layer.py --threads 2
	$(BIN)/python benchmarks/layer.py --threads 1
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/fitting.py --rounds 5
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/large_text.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/peers.py

# Slow: about ten minutes. The sanitized library takes precedence through a folder placed first on headgate.__path__.
# pytest captures no output: a sanitizer's report would be lost with the process that it ends.
SANITIZE := build/sanitize
FIRST := $(CURDIR)/$(SANITIZE)/python
PRELOAD = $(foreach name,libasan.so libubsan.so libstdc++.so,$(shell $(or $(CXX),c++) -print-file-name=$(name)))

sanitize: .venv/test-ready
	@echo "== 1 of 4: the library, for memory errors and undefined behaviour"
	cmake -S . -B $(SANITIZE)/address -DHEADGATE_SANITIZE=address,undefined
	MAKEFLAGS= cmake --build $(SANITIZE)/address --parallel 2
	@echo "== 2 of 4: the kernels' tests with it"
	mkdir -p $(FIRST)
	cp $(SANITIZE)/address/libheadgate.* $(FIRST)
	@printf 'import os\n\nimport headgate\n\nheadgate.__path__.insert(0, os.path.dirname(__file__))\n' >$(FIRST)/sitecustomize.py
	PYTHONPATH=$(FIRST) LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -c "from headgate import native; print('with', native.find(), native.level()); \
	  assert str(native.find().parent) == '$(FIRST)'"
	PYTHONPATH=$(FIRST) LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -q -s tests/test_native.py tests/kernels/test_cross_entropy.py \
	    tests/kernels/test_bindings.py tests/layers/test_functional.py
	@echo "== 3 of 4: the library and native/tests/threads_test.cpp, for data races"
	cmake -S . -B $(SANITIZE)/thread -DHEADGATE_SANITIZE=thread
	MAKEFLAGS= cmake --build $(SANITIZE)/thread --parallel 2 --target threads_test
	@echo "== 4 of 4: calls from several threads, with 1 to 4 threads each"
	$(SANITIZE)/thread/threads_test
	@echo "== no sanitizer reported anything"

clean:
	rm -rf .venv

.venv/ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: run make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "== 1 of 3: creating a Python environment, .venv"
	@$(PYTHON) -m venv .venv
	@echo "== 2 of 3: downloading and installing PyTorch and the rest, 1.5 GB on disk: about two minutes;"
	@echo "   longer, and several GB, if pip chooses a PyTorch build with CUDA"
	@$(call requirements,train estimators bpe tensorboard) >.venv/requirements.txt
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement .venv/requirements.txt
	@echo "== 3 of 3: compiling the native library: about two minutes on two cores"
	@CMAKE_BUILD_PARALLEL_LEVEL=$${CMAKE_BUILD_PARALLEL_LEVEL:-$$($(PYTHON) -c 'import os; print(os.cpu_count())')} \
	  MAKEFLAGS= $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

.venv/test-ready: .venv/ready
	@echo "== adding the test tools to .venv: about half a minute"
	@$(call requirements,test) >.venv/requirements.txt
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement .venv/requirements.txt
	@touch $@

# Prints the dependencies of the package and of the given extras and groups, for pip to install before the package.
define requirements
$(BIN)/python -c 'import sys, tomllib; table = tomllib.load(open("pyproject.toml", "rb")); project = table["project"]; \
  known = {**project["optional-dependencies"], **table["dependency-groups"]}; \
  more = (name for extra in sys.argv[1:] for name in known[extra]); \
  print(*project["dependencies"], *(name for name in more if not name.startswith("headgate")), sep="\n")' $(1)
endef
