# What a user and a developer run; README.md and CONTRIBUTING.md say when. Every target first installs
# what it needs and this machine lacks (Debian 12, root or sudo): tools/setup.sh. Where the packages
# came some other way, SETUP=true leaves that out.
SETUP ?= tools/setup.sh
PRESET ?= $(if $(shell command -v nvcc 2>/dev/null),cuda,cpu)
FUZZ_SECONDS ?= 20
BENCH_FLAGS ?=
TSAN_TESTS = base_test dist_test alltoall_test moe_test engine_test

# Looked up when a recipe runs, not before: setup may just have installed it.
launcher = $$(command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

.PHONY: build demo test bench format lint sanitize tsan fuzz clean

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

# The programs whose ranks are threads of one process. Those of MPI are left out: it brings threads of
# its own that the sanitizer does not know.
tsan:
	@$(SETUP)
	@cmake --preset tsan $(launcher) --log-level=WARNING
	@cmake --build build-tsan --target $(TSAN_TESTS)
	@for test in $(TSAN_TESTS); do build-tsan/bin/$$test --gtest_brief=1 || exit 1; done

fuzz:
	@$(SETUP) fuzz
	@cmake --preset fuzz $(launcher) --log-level=WARNING
	@cmake --build build-fuzz --target fuzzers
	@tools/fuzz.sh $(FUZZ_SECONDS)

clean:
	rm -rf build build-sanitize build-tsan build-fuzz
