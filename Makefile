# Everything from a bare machine: `make demo` trains on the embedded corpus, `make test` runs the tests.
export PYTHONSAFEPATH := 1  # ./kernels and ./trainer must not shadow packages of the same name
VENV ?= .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
CORE := $(VENV)/.core
READY := $(VENV)/.ready

# Of 17,000 files that are installed the tests import a quarter: each is compiled when it is.
INSTALL = $(PY) -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt
EXTRAS := all

# The compile gate runs with this triton beside the one that torch pins, see constraints.txt.
NEWEST_TRITON := 3.9.0

# The proof on a card runs in the Python that the card's machine has, with what that lacks unpacked from wheels.
CARD_PYTHON ?= python3
CARD_VERSION ?= 3.12
GPU_OUT ?= build/gpu/out
GPU_ARGS ?=

# For instance RANGE_ARGS=tests/trainer/models.
RANGE_ARGS ?= tests

# For instance PROVE_ARGS='--only crash --seed 7'.
PROVE_ARGS ?=

.PHONY: help demo test test-all check lint type fmt wheel dev prove mutations bench gate gate-newest oldest newest gpu gpu-wheels gpu-rehearse docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

$(CORE): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch setuptools
	$(INSTALL) --no-build-isolation -e '.[$(EXTRAS)]'
	mkdir -p build/dev/galore && cd build/dev/galore && ln -sfn ../../../cli ../../../trainer ../../../kernels ../../../recipes ../../../galore/*.py ../../../galore/py.typed ../../../galore/integrations .
	echo '$(EXTRAS)' > $@

$(READY): EXTRAS := all,bench,dev
$(READY): $(CORE)
	grep -q dev $(CORE) || $(INSTALL) --no-build-isolation -e '.[$(EXTRAS)]'
	touch $@

dev: $(READY)  ## virtual environment with everything, pinned; link tree for mypy and the IDE

demo: $(CORE)  ## train the demo recipe on the embedded corpus and write its report
	$(VENV)/bin/galore train demo --output-dir runs/demo-$$(date +%Y%m%d-%H%M%S)

test: $(READY)  ## the tests
	$(PY) -m pytest -q -n 2 --dist worksteal -m 'not slow'

test-all: $(READY)  ## the tests, slow ones too
	$(PY) -m pytest -q

lint: $(READY)
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

type: $(READY)
	$(PY) -m mypy

check: lint type  ## ruff, mypy --strict, architecture test
	$(PY) -m pytest -q tests/test_architecture.py

fmt: $(READY)
	$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

wheel: $(READY)  ## dist/*.whl, installed and run from an empty environment
	rm -rf dist build/lib && $(PY) -m build -q --wheel && $(PY) -m pytest -q -m slow tests/test_wheel.py

prove: $(READY)  ## kill, fail, corrupt, fuzz: nothing is lost and nothing lies (17 minutes; PROVE_ARGS=--help)
	PYTHONPATH=bench $(PY) -m prove $(PROVE_ARGS)

mutations: $(READY)  ## faults put into a copy of the tree one by one: some test must see each (10 minutes)
	$(PY) bench/mutations.py

bench: $(READY)  ## speed against transformers' Trainer with galore-torch (20 minutes, a quiet machine)
	$(PY) bench/speed.py

gate: $(READY)  ## the kernels compiled for sm_89 without a GPU, and what they take of it
	$(PY) bench/gate.py

gate-newest: $(READY)  ## the compile gate again with the newest triton, in an environment on top of this one
	$(PYTHON) -m venv build/newest-triton
	$(PY) -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$(build/newest-triton/bin/python -c 'import site; print(site.getsitepackages()[0])')/zz-base.pth
	build/newest-triton/bin/python -m pip install -q --disable-pip-version-check --no-compile --no-deps --ignore-installed triton==$(NEWEST_TRITON)
	build/newest-triton/bin/python -m pytest -q -n 2 -p no:cacheprovider tests/kernels/predict/test_compiled.py tests/kernels/triton/test_direct.py

define TESTS_AT_AN_END
	$(PYTHON) -m venv build/$@
	$(PY) bench/ranges.py $@ > build/$@/requirements.txt
	build/$@/bin/python -m pip install -q --disable-pip-version-check --no-compile --upgrade setuptools -r build/$@/requirements.txt
	build/$@/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	build/$@/bin/python -m pytest -q -n 2 --dist worksteal -p no:cacheprovider -m 'not slow' $(RANGE_ARGS)
endef

oldest: $(READY)  ## the tests with the first versions that pyproject.toml accepts (several GB, 40 minutes; RANGE_ARGS)
	$(TESTS_AT_AN_END)

newest: $(READY)  ## the tests with the last ones there are
	$(TESTS_AT_AN_END)

gpu:  ## the proof on the card that is here, in 9 minutes: what trains, fits, repeats, and how fast (GPU_ARGS=--help)
	$(CARD_PYTHON) bench/gpu/start.py --out $(GPU_OUT) $(GPU_ARGS)

gpu-wheels:  ## build/gpu/wheels: what the machine with the card may lack, for its Python (CARD_VERSION)
	$(PYTHON) bench/gpu/start.py --fetch $(CARD_VERSION)

gpu-rehearse: $(READY)  ## the same proof without a card: every part of it, tiny, on the CPU (4 minutes)
	$(PY) bench/gpu/start.py --rehearse --out $(GPU_OUT) $(GPU_ARGS)

docs: $(READY)  ## build/site: the documentation as a site, links checked, read without a network
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install -q --disable-pip-version-check --no-compile -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 build/docs/bin/python -m mkdocs build -q

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
