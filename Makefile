# Every target makes its own .venv when it is missing or out of date.
# PYTHON=python3.12 picks an interpreter, PIP_ARGS="--index-url ..." another index, PYTEST_ARGS="-k em" some tests.
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=

# constraints.txt is the set tested on Python 3.11; another Python resolves its own, and types are not checked there:
# numpy's stubs say other things from version to version.
PINS = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
PIP = .venv/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) $(PINS)
DEPENDS = setup.cfg pyproject.toml constraints.txt

.DEFAULT_GOAL := test
.PHONY: demo test test-slow fuzz examples lint bench docs clean

# torch goes in by itself first, so that no other package's wish decides which build of it comes.
.venv/.installed: $(DEPENDS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[test]'
	touch $@

.venv/.bench: .venv/.installed
	$(PIP) -e '.[bench]'
	touch $@

.venv/.docs: .venv/.installed
	$(PIP) -e '.[docs]'
	touch $@

# The folder of an earlier demo is replaced; nothing else under runs/ is touched.
demo: .venv/.installed
	rm -rf runs/demo
	.venv/bin/zoo compare gaussian_mixture --data iris --estimators em,eg,svi,gumbel --out runs/demo

# By files, so that what a file makes once is made once.
test: lint
	.venv/bin/python -m pytest -n auto --dist loadscope $(PYTEST_ARGS)

# The long versions only: larger searches and whole reproductions, each kept small in `make test`.
test-slow: .venv/.installed
	.venv/bin/python -m pytest -n auto -m slow $(PYTEST_ARGS)

# Ten thousand damaged files, where `make test` takes three hundred.
fuzz: .venv/.installed
	ZOO_FUZZ=10000 .venv/bin/python -m pytest -n auto tests/test_fuzz.py

# Every example as its users run it, about half an hour: the time that it promises, a line every ten seconds, a picture,
# which stays in runs/examples and goes into the site's gallery.
examples: .venv/.installed
	ZOO_EXAMPLES=full ZOO_PICTURES=runs/examples .venv/bin/python -m pytest -m "slow or not slow" tests/test_examples.py $(PYTEST_ARGS)
	.venv/bin/python docs/gallery.py runs/examples

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(if $(PINS),.venv/bin/mypy zoo guides,@echo "types are checked on Python 3.11 alone")

bench: .venv/.bench
	.venv/bin/zoo bench

# The site, in site/index.html: its pages' cells are run, what is wrong with one is an error. A few minutes. Always anew:
# the search of a build that goes on from an earlier one forgets what stands in the index of pages that it leaves be.
docs: .venv/.docs
	rm -rf site
	.venv/bin/python -m sphinx -W --keep-going -q -b html docs site

clean:
	rm -rf .venv site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
