# Everything goes into .venv; `make demo` and `make test` need nothing but Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: setup demo test test-quick image-test kubernetes-test browser azurite lint audit format docs lock clean

setup: .venv/.dev azurite  ## what development needs

demo: .venv/.demo  ## tag drawn posters in a bucket of an embedded object store
	@$(BIN)/python -m genretag.demo

test: .venv/.dev browser azurite  ## every test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-quick: .venv/.dev  ## the tests that need no cluster, no store, no browser and no training
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow"

image-test: .venv/.dev  ## build the container images and run compose.yaml in containers; root on Debian, 20 minutes
	@if test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null; then \
	  echo "images are not built here: this needs root on Debian"; exit; fi; \
	for program in buildah crun debootstrap ip; do command -v $$program > /dev/null || break; done; \
	command -v $$program > /dev/null || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends buildah crun debootstrap iproute2 > /dev/null; } && \
	GENRETAG_IMAGE_TEST=1 $(BIN)/python -m pytest -v tests/test_image.py

kubernetes-test: .venv/.dev  ## apply cluster/kubernetes to an API server built from Debian's source; root on Debian 12, 15 minutes
	@if test "$$(id -u)" != 0 || ! grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release; then \
	  echo "no API server is built here: this needs root on Debian 12"; exit; fi; \
	for program in dpkg-source etcd go jq rsync; do command -v $$program > /dev/null || break; done; \
	command -v $$program > /dev/null && test -d /usr/share/gocode/src/github.com/modern-go/reflect2 || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends dpkg-dev etcd-server golang-go jq rsync \
	  golang-github-modern-go-reflect2-dev > /dev/null; } && \
	GENRETAG_KUBERNETES_TEST=1 $(BIN)/python -m pytest -v tests/test_kubernetes_server.py

browser:  ## Chromium, for the tests of the pages: installed where it is missing, if this is root on Debian
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get > /dev/null && echo "installing Chromium for the tests of the pages" && \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "no Chromium here: the tests of the pages are skipped"

azurite: .venv/.dev  ## Azurite, for the tests of az://: installed if npm is here
	@test -d .venv/azurite/node_modules || { command -v npm > /dev/null && command -v node > /dev/null && \
	  echo "installing Azurite for the tests of az://" && mkdir -p .venv/azurite && \
	  cp tests/azurite/package.json tests/azurite/package-lock.json .venv/azurite/ && \
	  npm ci --prefix .venv/azurite --silent --no-fund --no-audit > /dev/null; } || \
	  echo "no Azurite here: the tests of az:// are skipped"

lint: .venv/.dev  ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: .venv/.dev  ## check the pinned packages for known vulnerabilities, and list them in build/sbom.json (SBOM)
	@$(INSTALL) '.[audit]'
	@mkdir -p build
	$(BIN)/cyclonedx-py requirements constraints.txt --output-format JSON --output-file build/sbom.json
	$(BIN)/python .ci/audit.py

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.dev  ## the site in build/site; a broken link stops the build
	$(BIN)/python docs/make_reference.py
	$(BIN)/zensical build --clean --strict

lock: .venv/.dev  ## write the versions that are installed now to constraints.txt
	@$(INSTALL) '.[audit]'
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check > constraints.txt

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing what scoring needs into .venv"
	@$(INSTALL) '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing what training and tests need into .venv"
	@$(INSTALL) '.[dev]'
	@touch $@ .venv/.demo

clean:
	rm -rf .venv build dist *.egg-info
