# The front door: every command of the project, for either variant. `make help` lists them.

# --- Knobs: say them after the target, as in `make run TASK=2 ENV=prod` -------------------------

# Which variant: a folder in docker/ that has an env file of its name in envs/.
ENV = dev
# Which task: the N of tasks/task_N.py.
TASK = 1
# What the task, or the shell, is told besides: ARGS="--keep-archive", ARGS=--help.
ARGS =
# The host to trust (make trust), as host or host:port.
HOST =
# 1 answers yes beforehand, where make trust would ask.
YES =
# The file that make load brings in.
FILE =
# Where make push goes: REGISTRY=registry.example/team.
REGISTRY =
# 1 builds without any network, from what make vendor brought.
OFFLINE =
# 1 refuses base images that are not the ones which make lock wrote down.
LOCKED =
# 1 lets a dev task wait for a debugger on its port of 127.0.0.1.
DEBUGGER =

# The surrounding environment may set the five that follow, since they describe a machine.

# container or host: force where tasks run. Empty: container where an engine answers.
RUNNER ?=
# docker or podman.
ENGINE ?= docker
# hub or debian: force where base images come from. Empty: hub where a registry answers.
BASE ?=
# A registry or mirror that has the hub's images: HUB=registry.example:5000/library.
HUB ?=
# Prefix of each image, container, network and volume: two clones side by side take two.
PROJECT ?= lighterage

# --- Internals: nothing below needs turning -----------------------------------------------------

MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Both lists are read from the tree: a new folder or file is a new variant or task.
VARIANTS := $(sort $(filter $(patsubst docker/%/compose.yaml,%,$(wildcard docker/*/compose.yaml)),\
  $(patsubst envs/%.env.example,%,$(wildcard envs/*.env.example))))
TASKS := $(patsubst tasks/task_%.py,%,$(sort $(wildcard tasks/task_*.py)))

COMMAND_KNOBS := ENV TASK ARGS HOST YES FILE REGISTRY OFFLINE LOCKED DEBUGGER
MACHINE_KNOBS := RUNNER ENGINE BASE HUB PROJECT
KNOBS := $(COMMAND_KNOBS) $(MACHINE_KNOBS)

# What a shell exports for other programs must not change which compose project, file or platform
# the recipes act on, which modules Python finds, or what the compose files read.
unexport $(filter COMPOSE_% PYTHON%,$(.VARIABLES)) DOCKER_DEFAULT_PLATFORM
unexport $(filter-out LIGHTERAGE_FAULTS,$(filter LIGHTERAGE_%,$(.VARIABLES)))

# Recipes see knobs only as LIGHTERAGE_*, unexpanded: no shell and no make reads a user's text.
unexport $(KNOBS)
MAKEOVERRIDES :=
export LIGHTERAGE_TASK := $(value TASK)
export LIGHTERAGE_ARGS := $(value ARGS)
export LIGHTERAGE_HOST := $(value HOST)
export LIGHTERAGE_YES := $(value YES)
export LIGHTERAGE_FILE := $(value FILE)
export LIGHTERAGE_REGISTRY := $(value REGISTRY)
export LIGHTERAGE_OFFLINE := $(value OFFLINE)
export LIGHTERAGE_LOCKED := $(value LOCKED)
export LIGHTERAGE_DEBUGGER := $(value DEBUGGER)
export LIGHTERAGE_RUNNER := $(value RUNNER)
export LIGHTERAGE_ENGINE := $(value ENGINE)
export LIGHTERAGE_BASE := $(value BASE)
export LIGHTERAGE_HUB := $(value HUB)
export LIGHTERAGE_PROJECT := $(value PROJECT)

# $(call one-of,KNOB,allowed words): the value must be exactly one of the words. The bars make
# the comparison exact, so that neither `dev prod` nor `%` passes for a variant.
one-of = $(if $(and $(filter 1,$(words $(value $1))),\
  $(findstring |$(value $1)|,$(patsubst %,|%|,$2))),, \
  $(error $1=$(value $1) is not known; allowed: $2))
given = $(filter-out file,$(origin $1))
empty :=
one-of-or-empty = $(if $(value $1),$(call one-of,$1,$2))

$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),\
  $(if $(filter $(KNOBS),$(name)),, \
  $(error $(name)=$(value $(name)) is not a variable of this Makefile; known: $(KNOBS)))))
$(if $(call given,ENV),$(call one-of,ENV,$(VARIANTS)))
$(if $(call given,TASK),$(call one-of,TASK,$(TASKS)))
$(call one-of,ENGINE,docker podman)
$(call one-of-or-empty,RUNNER,container host)
$(call one-of-or-empty,BASE,hub debian)
$(call one-of-or-empty,YES,0 1)
$(call one-of-or-empty,OFFLINE,0 1)
$(call one-of-or-empty,LOCKED,0 1)
$(call one-of-or-empty,DEBUGGER,0 1)

# exec: a signal to make reaches the tools themselves, with no shell between.
TOOLS := exec python3 -m docker.setup

# --- For one variant: ENV chooses, or the name does, as in prod-build ---------------------------

.PHONY: build
build: $(ENV)-build ## build the image, when something that goes into it changed

.PHONY: run
run: $(ENV)-run ## run TASK; on the bundled sample host until the env file names another

.PHONY: shell
shell: $(ENV)-shell ## bash where the task would run: its settings, mounts and limits

.PHONY: up
up: $(ENV)-up ## start the services in the background

.PHONY: down
down: $(ENV)-down ## stop the services and the sample host

.PHONY: logs
logs: $(ENV)-logs ## what the services said; ARGS=--follow stays

.PHONY: config
config: $(ENV)-config ## the settings of TASK and where each came from

.PHONY: clean
clean: $(ENV)-clean ## remove containers, networks and images; keep data and env files

.PHONY: save
save: $(ENV)-save ## the image as one file with its checksum, for make load elsewhere

.PHONY: push
push: $(ENV)-push ## the image to REGISTRY, by version; prints the digest

.PHONY: reproduce
reproduce: $(ENV)-reproduce ## build twice without cache, from two clones, and compare every byte

.PHONY: size
size: $(ENV)-size ## where each megabyte of the image is, and a picture; ARGS=--json

.PHONY: sbom
sbom: $(ENV)-sbom ## print what the image is made of, as CycloneDX JSON

VERBS := build run shell up down logs config clean save push reproduce size sbom
FAMILY := $(foreach variant,$(VARIANTS),$(addprefix $(variant)-,$(VERBS)))
verb = $(lastword $(subst -, ,$@))

.PHONY: $(FAMILY)
$(FAMILY):
	@$(if $(call given,ENV),$(if $(filter $(ENV)-$(verb),$@),,\
	  $(error $@ and ENV=$(ENV) name two variants; say one)))$(TOOLS) $(verb) $(@:%-$(verb)=%)

# --- For the project ----------------------------------------------------------------------------

.PHONY: diff
diff: ## how variants differ, measured: make diff dev prod; ARGS=--json, --markdown, --all
	@$(TOOLS) diff $(COMPARED)

# In `make diff dev prod` the words after diff are variants, no targets.
COMPARED := $(if $(filter diff,$(firstword $(MAKECMDGOALS))),$(filter-out diff,$(MAKECMDGOALS)))
.PHONY: $(COMPARED)
$(COMPARED):
	@:

.PHONY: verify
verify: ## prove on images and containers that variants differ as their contracts say, or only ENV
	@$(TOOLS) verify $(if $(call given,ENV),$(ENV))

.PHONY: trust
trust: ## show the fingerprints of HOST's keys, and know them from now on after a yes
	@$(TOOLS) trust $(ENV)

.PHONY: load
load: ## bring in FILE, which make save wrote, if it is what was written
	@$(TOOLS) load

.PHONY: doctor
doctor: ## what this machine has and lacks, with the fix for each
	@exec python3 -m docker.tools doctor

.PHONY: test
test: ## set up what the tests need, and run them all; ARGS go to pytest
	@$(TOOLS) test

.PHONY: bench
bench: ## time it beside scp, sftp, rsync, lftp and others; ARGS=--help explains
	@$(TOOLS) bench

.PHONY: bench-build
bench-build: ## size, builds and start of prod beside the image that it grew out of
	@$(TOOLS) bench-build

.PHONY: check
check: ## format, lint, types, Dockerfiles, shell, YAML, compose files, this Makefile
	@$(TOOLS) check

.PHONY: fmt
fmt: ## format the Python files
	@$(TOOLS) fmt

.PHONY: lock
lock: ## renew the pins: requirements/*.txt, and docker/base/*.lock
	@$(TOOLS) lock

.PHONY: vendor
vendor: ## bring all wheels that requirements/*.txt pin, for builds with OFFLINE=1
	@$(TOOLS) vendor

.PHONY: audit
audit: ## known vulnerabilities of what requirements/*.txt pin; ARGS go to pip-audit
	@$(TOOLS) audit

.PHONY: help
help: list ## this text
	$(info )
	$(info Variants: $(VARIANTS): ENV=name after the target, or in front of it as in $(lastword $(FAMILY)))
	$(info Tasks: $(TASKS))
	$(info Values now:)
	$(foreach knob,$(KNOBS),$(info $(empty)  $(knob)=$(value $(knob))))
	@:

.PHONY: list
list:
	$(info Usage: make TARGET [NAME=value ...])
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
