# One command each; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
POSTS ?= 11000
PEOPLE ?= 7700
export LAKE_URI ?= ./lake

# The newest supported interpreter that runs: a name on the path may be a shim that does not.
# `make PYTHON=python3.12 …` names one.
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
FIND_PYTHON = for python in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3); do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && { echo $$python; break; }; done

# Containers often set it; without compiled files every dbt process takes seconds longer to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo stack stack-down test test-all test-pythons lint lint-python lint-types \
	lint-sql docs report \
	spark spark-down spark-install airflow airflow-down stack-install \
	services databricks mwaa-upload mwaa-install bench lock clean reset

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | \
		awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

# Each group holds all of the base; `dev` holds all but `bench`, which holds everything. What is
# installed already is enough.
BASE := $(firstword $(wildcard $(VENV)/.bench $(VENV)/.dev $(VENV)/.orchestration $(VENV)/.databricks \
	$(VENV)/.test) $(VENV)/.base)
ORCHESTRATION := $(firstword $(wildcard $(VENV)/.bench $(VENV)/.dev) $(VENV)/.orchestration)
TEST := $(firstword $(wildcard $(VENV)/.bench $(VENV)/.dev) $(VENV)/.test)
DEV := $(firstword $(wildcard $(VENV)/.bench) $(VENV)/.dev)

install: $(BASE) profiles.yml ## Make .venv with what the pipeline needs

demo: install sink/topics ## Invent posts, land, build, test, answer: everything once
	@echo "landing the posts in the lake $(LAKE_URI): a few seconds"
	@$(BIN)/ingest s3 --uri sink
	@echo "building the models, testing them, writing the dbt docs: half a minute"
	@$(BIN)/python -m dbt_lake build --quiet --exclude-resource-type unit_test \
		, docs generate --static --quiet
	@echo "reading the answers: a few seconds"
	@echo
	@$(BIN)/python -m reporting answers
	@$(BIN)/python -m reporting page --out report/index.html
	@echo
	@echo "  report/index.html          the answers as a page"
	@echo "  target/static_index.html   the dbt docs"
	@printf "  %-26s the Delta tables\n" "$(LAKE_URI)"

# Tests wait now and then: one process more than there are cores keeps these busy.
WORKERS = $${PYTEST_XDIST_AUTO_NUM_WORKERS:-$$(($$(getconf _NPROCESSORS_ONLN) + 1))}
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(TEST) profiles.yml ## Run the tests that need no server and no browser (minutes)
	@echo "testing: rules, commands, report and one whole build against the oracle; 2 to 4 minutes"
	@$(PYTEST) --quick

test-all: $(VENV)/.bench profiles.yml services ## Run every test, against real servers (a quarter to half an hour)
	@echo "testing: everything, with real servers; a quarter to half an hour on two cores"
	@$(PYTEST)

test-pythons: ## Unit tests and one build under every other supported Python found here
	@main=$$($(FIND_PYTHON)); for version in 3.11 3.12 3.13 3.14; do \
		if ! python$$version -c '' 2>/dev/null; then \
			echo "Python $$version: not found here, not tested"; \
		elif [ "$$(python$$version -V)" != "$$($$main -V)" ]; then \
			echo "Python $$version: unit tests and one build"; \
			$(MAKE) --no-print-directory PYTHON=python$$version VENV=.venvs/$$version test-python \
				|| exit 1; \
		fi; \
	done

test-python: $(TEST) profiles.yml
	@$(PYTEST) --quick tests/unit tests/dbt/test_builds.py::test_hostile_records

lint: lint-python lint-types lint-sql ## Check style, types, SQL and dbt deprecations

lint-python: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(DEV)
	$(BIN)/mypy

lint-sql: $(DEV) profiles.yml
	$(BIN)/sqlfluff lint dbt_project/models dbt_project/tests
	$(BIN)/dbt parse --quiet --warn-error-options '{"error": ["Deprecations"]}'

docs: install ## Write the dbt docs as one page, target/static_index.html
	@$(BIN)/dbt docs generate --static --quiet
	@echo target/static_index.html

report: install ## Write report/index.html from the marts as they are
	@$(BIN)/python -m reporting page --out report/index.html

spark: install spark-install ## Start Apache Spark with Delta here, for `dbt build --target spark`
	@$(BIN)/python -m stack up spark

spark-down: install ## End it
	@$(BIN)/python -m stack down spark

# Each installation is complete before it replaces the former one: see stack/install.py.
spark-install: install ## Put Spark and Delta into .stack (500 MB; needs Java and Maven)
	@$(BIN)/python -m stack install spark

stack: stack-install ## The whole pipeline with real servers: posts in, both paths, the same answers
	@$(BIN)/python -m stack demo

stack-down: install ## End its servers
	@$(BIN)/python -m stack down

stack-install: install ## Put its servers into .stack (200 MB; needs Java, Maven, npm, MariaDB)
	@$(BIN)/python -m stack install mysql kafka kinesis s3

airflow: $(ORCHESTRATION) install sink/topics ## Start Airflow here with the daily DAG, and run it now
	@echo "reading the dbt project (10 s)"
	@$(BIN)/dbt parse --quiet
	@$(BIN)/python -m stack daily

airflow-down: install ## End it
	@$(BIN)/python -m stack down airflow

services: install ## Put every server that tests run against into .stack (2 GB)
	@$(BIN)/python -m stack install mysql spark kafka kinesis s3 mwaa

databricks: $(VENV)/.databricks profiles.yml ## Make .venv with what the databricks target needs

mwaa-upload: install ## Upload the DAG and the project for MWAA: BUCKET=… [ID=…] [SET="A=b …"] [DELETE=1] [DRY_RUN=1]
	@$(BIN)/python -m deploy.mwaa.upload "$(BUCKET)" $(if $(ID),--id "$(ID)") --settings "$$SETTINGS" \
		$(foreach secret,$(SECRETS),--secret "$(secret)") $(if $(DELETE),--delete) \
		$(if $(REPLACE),--replace) $(if $(DRY_RUN),--dry-run)
# As it is given: a value may hold spaces, quotes and dollars.
mwaa-upload: export SETTINGS = $(value SET)

mwaa-install: install ## Put MWAA's Airflow and its environment of dbt into .stack (1.3 GB)
	@$(BIN)/python -m stack install mwaa

bench: $(VENV)/.bench profiles.yml ## Measure landing and building: [BENCH="--small"] (see benchmarks/README.md)
	$(BIN)/python -m benchmarks $(BENCH)

LOCK = pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --python-version 3.11

# Every lock has the versions of the largest, so that installing one over another changes nothing.
# MWAA's lock takes the constraints of its Airflow, a file that CONSTRAINTS names; else it stays.
lock: ## Resolve the dependencies anew into requirements/
	$(call INSTALL,$(LOCK) requirements/bootstrap.in -o requirements/bootstrap.txt) && \
	"$$tools/bin/uv" $(LOCK) --group dev pyproject.toml -o requirements/dev.txt && \
	for group in orchestration databricks test; do \
		"$$tools/bin/uv" $(LOCK) -c requirements/dev.txt --group $$group pyproject.toml \
			-o requirements/$$group.txt || exit 1; \
	done && \
	"$$tools/bin/uv" $(LOCK) -c requirements/dev.txt pyproject.toml -o requirements/base.txt && \
	"$$tools/bin/uv" $(LOCK) -c requirements/dev.txt --group dev --group bench pyproject.toml \
		-o requirements/bench.txt && \
	"$$tools/bin/uv" $(LOCK) requirements/spark.in -o requirements/spark.txt && \
	"$$tools/bin/uv" $(LOCK) requirements/s3.in -o requirements/s3.txt $(if $(CONSTRAINTS),&& \
	"$$tools/bin/uv" $(LOCK) -c "$(CONSTRAINTS)" requirements/mwaa.in -o requirements/mwaa.txt)

clean: ## Remove what builds and tests leave: target, logs, report, caches
	rm -rf target logs report .pytest_cache .mypy_cache .ruff_cache .hypothesis

reset: clean ## Remove the lake and the invented posts as well
	rm -rf lake sink sink.partial

profiles.yml:
	cp profiles.example.yml profiles.yml

sink/topics: | install
	@rm -rf sink.partial
	@echo "inventing $(POSTS) posts in sink/: a few seconds"
	@$(BIN)/ingest synth --posts $(POSTS) --people $(PEOPLE) --out sink.partial
	@mkdir -p sink && mv sink.partial/topics sink/topics && rm -rf sink.partial

# An interpreter that is named but is not that of $(VENV) gets a new one.
ifdef PYTHON
ifneq ($(shell $(BIN)/python -V 2>/dev/null),$(shell $(PYTHON) -V 2>/dev/null))
$(shell rm -f $(VENV)/.base $(VENV)/.test $(VENV)/.dev $(VENV)/.bench $(VENV)/.databricks $(VENV)/.orchestration)
endif
endif

# uv lives in a temporary folder during an installation: it is a tenth of what it installs.
define INSTALL
	@python=$$($(FIND_PYTHON)); [ -n "$$python" ] || { \
		echo "error: no Python 3.11, 3.12, 3.13 or 3.14 runs$(if $(PYTHON), as $(PYTHON)); install one," \
			"for instance with 'apt-get install python3 python3-venv' or 'brew install python'" >&2; \
		exit 1; }; \
	tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT INT TERM && \
	{ $$python -m venv "$$tools" >/dev/null || { \
		echo "error: $$python cannot make a virtual environment;" \
			"'apt-get install $${python##*/}-venv' adds what it lacks" >&2; exit 1; }; } && \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/bootstrap.txt && \
	{ [ "$$($(BIN)/python -V 2>/dev/null)" = "$$("$$tools/bin/python" -V)" ] || \
		{ [ -z "$(PYTHON)" ] && $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; } || \
		"$$tools/bin/uv" venv --quiet --clear --python "$$tools/bin/python" $(VENV); } && \
	"$$tools/bin/uv" $(1)
endef

# On a terminal uv shows its own progress.
QUIETLY = $$([ -t 2 ] || echo --quiet)

$(VENV)/.base $(VENV)/.databricks $(VENV)/.orchestration $(VENV)/.test $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: requirements/%.txt pyproject.toml
	@echo "installing $$(grep -c '^[a-z]' $<) packages into $(VENV): about a minute, more on a slow network"
	$(call INSTALL,pip install $(QUIETLY) --python $(BIN)/python --require-hashes \
		-r requirements/$*.txt) && "$$tools/bin/uv" pip install --quiet --python $(BIN)/python \
		--no-deps --build-constraints requirements/bootstrap.txt -e .
	@touch $@
