# make help lists the targets. Each one prepares .venv by itself; setup does nothing, offline and at once,
# when pyproject.toml is unchanged.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
EXTRAS := client,serve,train,dev
STAMP := .venv/.setup-$(shell cksum < pyproject.toml | tr ' ' '-')

# Programs the targets call, as command:apt-package. g++ builds the kernels of torch.compile on the CPU.
PROGRAMS := git:git g++:g++ redis-server:redis-server espeak-ng:espeak-ng

GO_PACKAGES := golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev \
	protobuf-compiler protoc-gen-go-1-5 protoc-gen-go-grpc

MKDOCS := mkdocs==1.6.1
MKDOCS_THEME := mkdocs-material>=9.6,<10

# Two workers with one thread each beat one worker with two threads, and do not fight over two cores.
WORKERS := $(shell nproc 2>/dev/null || echo 2)
ARGS ?=
# What pytest answers where nothing was selected: each of the two runs may have nothing to do.
NONE := 5

.PHONY: help setup programs check test abuse test-containers test-cluster test-go endurance proofs demo bench drills quality mark protos reference docs images lab lock sbom audit-dependencies

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1	\2/' | expand -t 16

setup: programs $(STAMP) ## .venv and every program that the other targets need

programs:
	@missing=""; \
	for entry in $(PROGRAMS); do command -v "$${entry%%:*}" >/dev/null || missing+=" $${entry##*:}"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	root=""; [ "$$(id -u)" = 0 ] || root="sudo"; \
	if ! command -v apt-get >/dev/null || { [ -n "$$root" ] && ! sudo -n true 2>/dev/null; }; then \
		echo "make setup: please install these packages, then run it again:$$missing" >&2; exit 1; \
	fi; \
	$$root apt-get update -qq && $$root apt-get install -qq -y --no-install-recommends $$missing

$(STAMP):
	@python=""; \
	for candidate in python3.11 python3.12 python3.13 python3; do \
		if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python="$$candidate"; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make setup: needs Python 3.11 or later with venv (Debian: apt-get install python3 python3-venv)" >&2; exit 1; \
	fi; \
	[ -x $(BIN)/python ] || "$$python" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@rm -f .venv/.setup-* && touch $@

check: setup ## style, types, import rules, generated code and documents: one yes or no
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py --check
	$(BIN)/python tools/chart_readme.py --check
	$(BIN)/python tools/api_reference.py --check
	$(BIN)/python -m tools.reference --check
	$(BIN)/python -m tools.drawing --check
	$(BIN)/python -m tools.words

protos: setup ## the generated code of protos/, and the reference of the API
	$(BIN)/python tools/protos.py
	$(BIN)/python tools/api_reference.py

reference: setup ## the generated pages of docs/ but that of the API, and the drawing
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.drawing

docs: setup ## the site of docs/ in out/site, with MkDocs in an environment of its own; links that do not resolve are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/uv tool run --quiet --from "$(MKDOCS)" --with "$(MKDOCS_THEME)" mkdocs build --strict $(ARGS)

test: setup ## the tests; ARGS="tests/model -k lora" chooses some
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --durations 10 -m "not gpu and not alone and not containers and not cluster and not proof" $(ARGS) || [ $$? = $(NONE) ]
	OMP_NUM_THREADS=1 $(BIN)/pytest --durations 30 -m "alone and not gpu and not containers and not cluster and not proof" $(ARGS) || [ $$? = $(NONE) ]

test-containers: setup ## the services in containers: images, pods of the rendered chart; needs root, takes a while
	OMP_NUM_THREADS=1 $(BIN)/pytest -m containers tests/containers $(ARGS)

test-cluster: setup ## the chart and discovery against a real API server, which is built once in minutes; needs root, Debian 12
	OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster tests/cluster $(ARGS)

test-go: setup ## the example in Go, with Debian's packages of Go and gRPC; needs root
	apt-get update -qq && apt-get install -qq -y --no-install-recommends $(GO_PACKAGES)
	$(BIN)/pytest tests/examples -k go $(ARGS)

abuse: setup ## storms of single callers against all services, and what honest ones notice: out/abuse.json, in a minute and a half
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.abuse $(ARGS)

endurance: setup ## one session of 10,000 s, which takes half an hour: nothing grows, the end is the oracle's
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/system/test_endurance.py --endurance-seconds 10000 -o log_cli=true --log-cli-level=INFO

proofs: setup ## what takes minutes and changes seldom: distillation towards a known answer, compiled services
	OMP_NUM_THREADS=1 $(BIN)/pytest -m proof -o log_cli=true --log-cli-level=INFO $(ARGS)

demo: setup ## a portrait speaks: all services on this machine, out/demo.mp4 and how long it took
	$(BIN)/live-avatar demo $(ARGS)

bench: setup ## how close the pipeline is to its limits on this machine: out/bench.json; ARGS="steps tiny" chooses sections
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

drills: setup ## processes are killed, frozen, cut and replaced while sessions speak: out/drills.json; ARGS="kills cuts" chooses sections
	OMP_NUM_THREADS=1 $(BIN)/python -m drills $(ARGS)

quality: setup ## how good the pictures are: out/quality.md and a contact sheet; ARGS="--services" and more, see docs/performance/quality.md
	OMP_NUM_THREADS=1 $(BIN)/python -m evaluation $(ARGS)

mark: setup ## how well the invisible mark survives: out/watermark.json and a contact sheet; ARGS="--clips 200 --photographs DIR"
	OMP_NUM_THREADS=1 $(BIN)/python -m evaluation.watermark $(ARGS)

images: setup ## the container images of all services, with docker, podman or buildah; ARGS="--torch cuda" and more
	$(BIN)/python tools/images.py $(ARGS)

lab: ## a podman of its own on Debian, for images and container tests where there is no other
	tools/containers/setup.sh

sbom: setup ## a software bill of materials (CycloneDX) for each image, in out/sbom
	$(BIN)/python tools/sbom.py

audit-dependencies: setup ## known vulnerabilities of all locked packages; code 2 where the database cannot be reached
	$(BIN)/python tools/audit_dependencies.py

lock: setup ## locks/: the versions that images are built from, as installed here
	$(BIN)/python tools/lock.py
