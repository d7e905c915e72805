PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := fit,fast,plot,data

.PHONY: demo test test-slow lint bench left-out docs clean

demo: $(VENV)/.installed
	@$(BIN)/isoflop explain llama-3.1-8b --on h100-sxm
	@echo "\n--- Which GPUs, for a promise? isoflop advise ---\n"
	@$(BIN)/isoflop advise llama-3.1-8b --on 8xh100-sxm,8xa100-80gb-sxm --traffic demo --slo "ttft<500ms@p99,tpot<40ms@p95"
	@echo "\n--- Which training plan? isoflop plan ---\n"
	@$(BIN)/isoflop plan llama-3.1-70b --on 512xdgx-h100 --tokens 2T
	@echo "\n--- What do these runs say of a budget? isoflop fit, isoflop spend ---\n"
	@$(BIN)/isoflop fit demo
	@$(BIN)/isoflop spend 1e24

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" -n auto

test-slow: $(VENV)/.installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cp]"
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

left-out: $(VENV)/.installed-test
	$(BIN)/python tools/calibrate_engines.py --data ../shared/data --left-out

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
