PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := fit,fast,plot,data

.PHONY: demo test test-slow lint bench docs clean

demo: $(VENV)/.installed
	@$(BIN)/isoflop explain llama-3.1-8b --on h100-sxm

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" -n auto

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed-test
	$(BIN)/python tools/build_docs.py

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing isoflop into $(VENV) (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS),test]"
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS),test,lint]"
	@touch $@

clean:
	rm -rf $(VENV) build dist
