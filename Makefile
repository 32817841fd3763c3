# Bare `make` prints help. All goes into .venv, .venv-oracle and .build; only `make test-data` fills ~/.cache/commandr-gguf.

PYTHON      ?= python3
VENV        := .venv
BIN         := $(VENV)/bin
PY          := $(BIN)/python
PIP         := $(PY) -m pip --disable-pip-version-check -qq install
PYTEST      := $(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal
LOCK        := $(if $(shell command -v flock),flock $(VENV)/.lock)
DEMO        := .build/demo

# The variant of ggml: source, wheel, cuda, vulkan or metal. The one that is installed stays until another is asked for.
INSTALLED   := $(subst -, ,$(patsubst $(VENV)/.ggml-%,%,$(firstword $(wildcard $(VENV)/.ggml-*))))
GGML        ?= $(or $(word 1,$(INSTALLED)),source)
GGML_OPENMP ?= $(or $(word 2,$(INSTALLED)),ON)
GGML_STAMP  := $(VENV)/.ggml-$(GGML)-$(GGML_OPENMP)
C_FILES     := $(wildcard native/src/*.[ch] native/src/kernels/*.[ch] native/src/encoders/*.[ch] native/include/*.h)
# An editable installation knows the packages there were when it was made.
PACKAGES    := $(shell find commandr_gguf convert -name __init__.py)
EDITABLE    := --no-build-isolation -C build-dir=$(VENV)/build \
               -C cmake.define.COMMANDR_NATIVE=$(if $(filter wheel,$(GGML)),OFF,ON) --editable

.DEFAULT_GOAL := help
.PHONY: help setup build demo test check format test-data test-oracle test-clients test-large bench \
        bench-convert bench-server clean ggml-cuda ggml-vulkan ggml-metal

help: ## print this help
	@echo "usage: make TARGET [GGML=source|wheel] [GGML_OPENMP=ON|OFF] [PYTHON=python3]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 18

# ---- what to run ----------------------------------------------------------------------------------------------------

demo: setup ## convert the embedded checkpoint; a chat turn, a tool call and an answer with citations
	@mkdir -p $(DEMO)
	$(PY) -m convert commandr_gguf/demo/checkpoint -o $(DEMO)/demo.gguf --type Q4_K_M --force
	$(BIN)/commandr info $(DEMO)/demo.gguf
	$(BIN)/commandr demo $(DEMO)/demo.gguf

test: setup ## the tests that need nothing but this folder
	$(PYTEST) tests

check: setup $(VENV)/.dev ## lint, types, formatting, C warnings, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES) native/amx_probe.cpp tests/native/*.[ch] tests/bench/*.c
	$(BIN)/mypy
	@$(BIN)/cmake -S native -B $(VENV)/check -G Ninja --log-level=ERROR -DCMAKE_BUILD_TYPE=Release -DCOMMANDR_WERROR=ON \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(PY)) \
		-DCMAKE_PREFIX_PATH=$$($(PY) -c 'import libggml; print(libggml.__path__[0])')
	$(BIN)/cmake --build $(VENV)/check --target commandr
	$(PYTEST) tests/test_layers.py tests/test_exports.py tests/test_contract.py

format: setup $(VENV)/.dev ## put the Python and C files into their format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES) native/amx_probe.cpp tests/native/*.[ch] tests/bench/*.c

test-data: setup ## fetch the real tokenizer for the tests
	$(PY) tests/data.py

test-oracle: setup test-data ## compare with transformers and llama.cpp, installed into .venv-oracle (minutes)
	$(PY) tests/oracle/setup.py
	$(PYTEST) tests -m oracle

test-clients: setup ## the server with LangChain's and LlamaIndex's clients, installed into .venv-clients
	[ -x .venv-clients/bin/python ] || $(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --disable-pip-version-check --quiet --upgrade "pip>=25.1"
	.venv-clients/bin/python -m pip install --disable-pip-version-check --quiet --group clients
	$(PY) -m pytest tests/server/test_clients.py

test-large: setup ## tensors of more than 2^31 elements, 104 B weights (20 GB of memory, 45 GB of disk)
	$(PY) -m pytest tests -m large

bench: setup ## compare speed and memory with llama.cpp and transformers (an hour)
	$(PY) tests/oracle/setup.py --variants
	$(PY) tests/bench/compare_llama_cpp.py

bench-convert: setup test-data ## compare conversions with llama.cpp's, and our encoders with ggml's
	$(PY) tests/oracle/setup.py
	$(PY) tests/bench/convert_vs_llama_cpp.py
	$(PY) tests/bench/encoders.py

bench-server: setup ## compare the server under load with llama.cpp's two (half an hour)
	$(PY) tests/oracle/setup.py --servers
	@mkdir -p .build/bench
	$(PY) -m convert commandr_gguf/demo/checkpoint -o .build/bench/demo.gguf --type Q8_0 --force
	$(PY) tests/bench/server_load.py .build/bench/demo.gguf --newcomer 1536
	$(PY) tests/bench/write_model.py .build/bench/8b.gguf --type Q4_K_M --layers 4
	$(PY) tests/bench/server_load.py .build/bench/8b.gguf
	$(PY) tests/bench/soak.py

ggml-cuda: ## rebuild with the CUDA backend (long: about 36 core-minutes an architecture)
	@$(MAKE) --no-print-directory setup GGML=cuda
ggml-vulkan: ## rebuild with the Vulkan backend
	@$(MAKE) --no-print-directory setup GGML=vulkan
ggml-metal: ## rebuild with the Metal backend
	@$(MAKE) --no-print-directory setup GGML=metal

clean: ## remove all that make has made
	rm -rf $(VENV) .venv-oracle .build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- set-up ---------------------------------------------------------------------------------------------------------

setup: build ## create .venv with ggml, our extension and the test tools (all other targets do it, too)

$(VENV)/.base:
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) 'scikit-build-core>=1.0,<2' 'cffi>=1.17' 'cmake>=3.26' 'ninja>=1.11'
	@touch $@

# The script holds the compiler's flags: a ggml that was built with others rounds and performs otherwise.
$(GGML_STAMP): native/ggml_build.py | $(VENV)/.base
	@echo "installing ggml ($(GGML))"
	@$(LOCK) $(PY) native/ggml_build.py $(GGML) --openmp $(GGML_OPENMP)
	@rm -rf $(VENV)/.ggml-* $(VENV)/build $(VENV)/check
	@touch $@

build: $(VENV)/.built ## compile the extension, if a C file changed

# Dependencies are looked at again only when pyproject.toml or ggml changed.
$(VENV)/.built: $(C_FILES) $(PACKAGES) native/CMakeLists.txt native/cffi_build.py pyproject.toml $(GGML_STAMP)
	@echo "building the extension"
	@PATH="$(abspath $(BIN)):$$PATH" $(LOCK) $(PIP) $(if $(filter pyproject.toml $(GGML_STAMP),$?),,--no-deps) \
		$(EDITABLE) '.[test]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.built
	@echo "installing the tools for checking"
	@$(PIP) $$($(PY) -c 'import re; print(*re.findall(r"\"(.+?)\"", \
		re.search(r"^dev = (.+)$$", open("pyproject.toml").read(), re.M)[1]))')
	@touch $@
