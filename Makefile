# What a user and a developer run; README.md and CONTRIBUTING.md say when. Every target first installs
# what it needs and this machine lacks (Debian 12, root or sudo): tools/setup.sh. Where the packages
# came some other way, SETUP=true leaves that out.
SETUP ?= tools/setup.sh
PRESET ?= $(if $(shell command -v nvcc 2>/dev/null),cuda,cpu)
FUZZ_SECONDS ?= 20
BENCH_FLAGS ?=

# Looked up when a recipe runs, not before: setup may just have installed it.
launcher = $$(command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

.PHONY: build demo test bench format lint sanitize fuzz clean

build:
	@$(SETUP)
	@cmake --preset $(PRESET) $(launcher) --log-level=WARNING
	@cmake --build build

demo: build
	@tools/demo.sh

test: build
	@ctest --test-dir build --output-on-failure -j2

# JSON of each program goes into build/bench/; tools/bench_to_results keeps a run in bench/results/.
bench: build
	@tools/bench.sh $(BENCH_FLAGS)

format:
	@$(SETUP) lint
	@git ls-files -co --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh' | xargs -r clang-format -i

lint: build
	@$(SETUP) lint
	@tools/lint.sh

sanitize:
	@$(SETUP)
	@cmake --preset sanitize $(launcher) --log-level=WARNING
	@cmake --build build-sanitize
	@ctest --test-dir build-sanitize --output-on-failure -j2

fuzz:
	@$(SETUP) fuzz
	@cmake --preset fuzz $(launcher) --log-level=WARNING
	@cmake --build build-fuzz --target fuzzers
	@tools/fuzz.sh $(FUZZ_SECONDS)

clean:
	rm -rf build build-sanitize build-fuzz
