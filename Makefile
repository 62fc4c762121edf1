# IceFlix: everything a person types. `make` alone shows what there is.

# For run-cluster and stop-cluster:
#   INSTANCES=N      instances of main, auth and catalog, 1 to 16
#   MEDIA=DIR[:DIR]  directories with films, one streaming node each; a sample film if not given
#   STATE=DIR        where everything about the cluster is kept
#   DETACH=1         return when the cluster is healthy, and leave it running
#   HOST=ADDRESS     where to listen: the address by which others reach this machine; then kept
#   JOIN=LINE        let this machine into the cluster that the line of `iceflix cluster invite` is of
#   CLUSTER=NAME     the cluster's name; random if not given, then kept
INSTANCES ?= 2
STATE ?= .iceflix
# Other programs have variables called so too: these count only when make is given them.
HOST =
CLUSTER =
JOIN =

# The programs are where the documents say, whatever is set for other projects.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR CARGO_BUILD_TARGET

# To the scripts as they are: $(value) keeps a dollar sign in a directory's name.
unexport INSTANCES MEDIA STATE DETACH HOST CLUSTER JOIN
run-cluster stop-cluster: export ICEFLIX_MAKE_INSTANCES := $(value INSTANCES)
run-cluster stop-cluster: export ICEFLIX_MAKE_MEDIA := $(value MEDIA)
run-cluster stop-cluster: export ICEFLIX_MAKE_STATE := $(value STATE)
run-cluster stop-cluster: export ICEFLIX_MAKE_DETACH := $(value DETACH)
run-cluster stop-cluster: export ICEFLIX_MAKE_HOST := $(value HOST)
run-cluster stop-cluster: export ICEFLIX_MAKE_CLUSTER := $(value CLUSTER)
run-cluster stop-cluster: export ICEFLIX_MAKE_JOIN := $(value JOIN)

# Where rustup puts cargo, in case the shell has not heard of it yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Most tests wait for something most of the time: with two at a time for each processor all of them
# take a quarter less (measured on two). Eight at most: a container may have fewer processors than it
# sees.
ifndef RUST_TEST_THREADS
export RUST_TEST_THREADS := $(shell n=$$(nproc); echo $$((n < 4 ? 2 * n : 8)))
endif

CARGO_ARGS = --release --locked --workspace

.PHONY: help build run-cluster stop-cluster check test faults fuzz fmt bench clean

help:
	@echo 'make run-cluster [MEDIA=DIR[:DIR...]] [INSTANCES=2] [STATE=.iceflix] [DETACH=1]'
	@echo '                    [HOST=ADDRESS] [JOIN=LINE]'
	@echo '                    install what is missing, build, start a cluster, wait until it is healthy'
	@echo 'make stop-cluster   stop it (with the same STATE)'
	@echo 'make build          the programs, in target/release'
	@echo 'make check          formatting, lints and the quick tests'
	@echo 'make test           everything the project checks, from nothing'
	@echo 'make faults         kill, part and starve a cluster that is used, and say what became of it (as root)'
	@echo 'make fuzz           throw random input at every parser, a minute each (SECONDS_EACH=60)'
	@echo 'make bench          measure; a table, and JSON under target/ (what faults cost: as root)'
	@echo 'make fmt            format the sources'
	@echo 'make clean          remove what was built'

build:
	scripts/bootstrap
	scripts/build

run-cluster:
	@scripts/run-cluster

stop-cluster:
	@scripts/stop-cluster

check:
	cargo fmt --all --check
	cargo clippy $(CARGO_ARGS) --all-targets -- -D warnings
	cargo test $(CARGO_ARGS) --lib --bins

test:
	scripts/bootstrap --test
	cargo fmt --all --check
	cargo clippy $(CARGO_ARGS) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(CARGO_ARGS) --no-deps
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	cargo test $(CARGO_ARGS)
	scripts/smoke

faults:
	scripts/bootstrap --test
	cargo build $(CARGO_ARGS)
	target/release/iceflix-faults run

fuzz:
	scripts/bootstrap --fuzz
	scripts/fuzz

fmt:
	cargo fmt --all

bench:
	scripts/bootstrap --test
	cargo build $(CARGO_ARGS)
	target/release/iceflix-bench

clean:
	cargo clean
