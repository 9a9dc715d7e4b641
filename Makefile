# Everything a newcomer or a pipeline runs. The tools' settings stand in pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
READY_DEMO := $(VENV)/.ready-demo
unexport PYTHONDONTWRITEBYTECODE # Compiled tests are kept: rewriting their asserts is nearly half of collecting them.

.PHONY: demo demo-kafka test unit check format schemas clean

demo: $(READY_DEMO) ## Trains a growing network on handwritten digits, beside static ones, and tells its history from the log.
	@$(BIN)/esper demo

demo-kafka: $(READY) ## A broker, two trainings, a bridge, two workers and Nissa: records, an alert, a worker that is killed. Needs Java and Maven.
	@$(BIN)/python deploy/kafka/demo.py

test: $(READY) ## The tests, real Kafka brokers included (one for each of two processes; the jars are fetched): some minutes. ALL=1: the long ones too.
	@if command -v java >/dev/null && command -v mvn >/dev/null; then $(BIN)/python deploy/kafka/local_kafka.py --fetch; fi
	$(BIN)/python -m pytest $(if $(ALL),,-m "not long") -n auto --maxprocesses 2 --dist loadfile -o console_output_style=count --durations 10

unit: $(READY) ## The short tests, on all cores: less than half a minute.
	$(BIN)/python -m pytest -m "not whole and not kafka" -n auto --maxprocesses 4 --dist loadfile

check: $(READY) ## Format, lint, strict types, import contracts, schema drift.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.schemas --check schemas

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: $(READY) ## Writes schemas/ from the models.
	$(BIN)/python -m tools.schemas --write schemas

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# pip is the last thing that venv makes: without it the environment is half made, and is made again.
$(BIN)/pip:
	@echo "esper: making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "esper needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(READY_DEMO): pyproject.toml | $(BIN)/pip
	@echo "esper: installing; torch for Linux is the CUDA build: about 2.5 GB to download, 5.3 GB unpacked, a minute on a fast line"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,nissa,audit]'
	@touch $@

$(READY): pyproject.toml | $(BIN)/pip
	@echo "esper: installing with the development tools; torch for Linux is the CUDA build: about 2.5 GB to download, 5.3 GB unpacked"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(READY_DEMO)
