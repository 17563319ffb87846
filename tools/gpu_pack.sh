#!/usr/bin/env bash
# Packs what the CUDA build needs beside a compiler, CMake, ninja, nvcc, NCCL and MPI, so that a machine
# without network can build: the unpacked headers of build/deps/ and the libraries of Debian packages,
# as they are on this machine. They go into build/gpu_pack.tar.xz; tools/gpu_check.sh unpacks it.
#
# usage: tools/gpu_pack.sh            packs; refuses while something is missing
#        tools/gpu_pack.sh --unpack   unpacks into build/deps/, libraries into build/deps/root/
set -euo pipefail
cd "$(dirname "$0")/.."
pack=build/gpu_pack.tar.xz deps=build/deps root=build/deps/root

# The libraries of tools/setup.sh. MPI is not among them: it must fit the machine's mpirun.
packages=(libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libfmt-dev libhwy-dev
  libpcre2-dev libutf8proc-dev libgtest-dev libgmock-dev libbenchmark-dev)

refuse() { echo "gpu_pack: $*" >&2; exit 1; }

# Paths from / of what the packages hold for builds: headers, CMake's and pkg-config's files, shared
# libraries with all their names, and static ones where there are no shared ones.
library_files() {
  local file
  dpkg -L "$@" | grep -E '^/usr/(include|lib|share/cmake)/' | while read -r file; do
    case $file in
      *.so) printf '%s\n' "$file"* ;;
      *.a) [ -e "${file%.a}.so" ] || echo "$file" ;;
      *) [ -d "$file" ] || echo "$file" ;;
    esac
  done | sed 's|^/||'
}

make_pack() {
  tools/unpack_headers --check ||
    refuse "headers of tools/wheels.txt are missing in $deps: run tools/setup.sh where nvcc is found"
  command -v dpkg >/dev/null || refuse "dpkg is not on this machine: pack on Debian, which has the packages"
  local package
  for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || refuse "$package is missing on this machine: run tools/setup.sh"
  done
  library_files "${packages[@]}" |
    tar -cJf "$pack.part" --transform 's|^usr/|root/usr/|' --owner 0 --group 0 \
      -C "$deps" cccl cutlass deepgemm flashinfer -C / --no-recursion --files-from -
  mv "$pack.part" "$pack"
  echo "gpu_pack: wrote $pack, $(($(stat -c %s "$pack") / 1000)) kB"
}

unpack() {
  [ -f "$pack" ] || refuse "$pack is missing: tools/gpu_pack.sh makes it on a machine with network"
  mkdir -p "$deps"
  tar -xJf "$pack" -C "$deps"
  tools/unpack_headers --check ||
    refuse "$pack has other headers than tools/wheels.txt pins: make it again with tools/gpu_pack.sh"
  # CMake's files find their place; those of pkg-config are told.
  sed -i "s|^prefix=.*|prefix=$PWD/$root/usr|" "$root"/usr/lib/*/pkgconfig/*.pc
}

case ${1:-} in
  '') make_pack ;;
  --unpack) unpack ;;
  *) echo "gpu_pack: unknown option $1" >&2; exit 2 ;;
esac
