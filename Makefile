# The commands of README.md. `make demo` and `make test` need nothing but Debian 12 and root or sudo.
PRESET := $(if $(shell command -v nvcc 2>/dev/null),cuda,cpu)
LAUNCHER := $(if $(shell command -v ccache 2>/dev/null),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

.PHONY: build test
build:
	cmake --preset $(PRESET) $(LAUNCHER) -DWIDEEP_CUDA=OFF
	cmake --build build

test: build
	ctest --test-dir build --output-on-failure -j2
