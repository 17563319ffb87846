#!/usr/bin/env bash
# Installs what a make target needs and this machine lacks: Debian packages with apt, and, where nvcc
# is found, the header wheels pinned in tools/wheels.txt. When nothing is missing it asks no network
# and takes a fraction of a second, so every make target calls it.
#
# usage: tools/setup.sh [lint] [fuzz]     beside what builds and tests; needs root or sudo
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ cmake ninja-build ccache pkg-config python3
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libfmt-dev libhwy-dev
  libpcre2-dev libutf8proc-dev libopenmpi-dev openmpi-bin
  libgtest-dev libgmock-dev libbenchmark-dev)
for group in "$@"; do
  case "$group" in
    lint) packages+=(clang-format clang-tidy git) ;;
    fuzz) packages+=(clang libclang-rt-dev) ;;
    *) echo "tools/setup.sh: unknown group '$group': lint or fuzz" >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*" >&2; }

# retry COMMAND...: three tries with a pause between, for registries that answer late.
retry() {
  local try
  for try in 1 2 3; do
    "$@" && return 0
    [ "$try" = 3 ] || { say "failed, trying again: $*"; sleep $((try * 5)); }
  done
  return 1
}

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
    sed -n 's/^installed //p' || true)
  comm -23 <(printf '%s\n' "$@" | sort -u) <(sort -u <<<"$installed")
}

install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "apt-get is not on this machine, so nothing can be installed here."
    say "Install what these Debian packages hold, then run make with SETUP=true: $*"
    exit 1
  fi
  local missing as_root=()
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "run as root or install sudo; missing: ${missing[*]}"; exit 1; }
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300)
  retry "${apt[@]}" update </dev/null >/dev/null ||
    say "apt-get update failed; trying with the package lists that are here"
  if ! retry "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null; then
    say "apt-get could not install: ${missing[*]}"
    exit 1
  fi
}

# Headers for the CUDA half, in build/deps/. Without a registry the build goes on without them: its
# configure step says so, and what needs them is left out.
install_wheels() {
  tools/unpack_headers --check && return 0
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  local wheels=build/deps/wheels
  mkdir -p "$wheels"
  say "fetching the header wheels of tools/wheels.txt"
  # The platform is pinned because only headers are taken: they are the same for every processor.
  if ! python3 -m pip download --quiet --retries 3 --no-deps --require-hashes \
      --only-binary=:all: --platform manylinux2014_x86_64 --platform any \
      --dest "$wheels" --requirement tools/wheels.txt </dev/null; then
    say "the header wheels could not be fetched: going on without FlashInfer, DeepGEMM and CUTLASS"
    return 0
  fi
  tools/unpack_headers
}

install_packages "${packages[@]}"
if command -v nvcc >/dev/null; then install_wheels; fi
