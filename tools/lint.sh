#!/usr/bin/env bash
# Formatting, the include arrows, machine paths in the text, and clang-tidy on what changed.
#
# usage: tools/lint.sh [--all]      needs build/compile_commands.json (make build)
# clang-tidy reads the sources that differ from where this branch left main, on CI those of the last
# eight commits (all of them would take longer than everything else CI does), with what is not committed
# yet. LINT_BASE names another commit to compare with; all
# sources are read with --all, and where there is no commit to compare with.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

step() { echo "lint: $*"; }
fail() { echo "lint: FAILED: $*" >&2; failed=1; }
sources() { git ls-files -co --exclude-standard "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done; }

step "clang-format"
sources '*.h' '*.cc' '*.cu' '*.cuh' | xargs -r clang-format --dry-run -Werror ||
  fail "run 'make format'"

step "include arrows and file rules (tools/check_includes)"
tools/check_includes || fail "ARCHITECTURE.md has the arrows"

# Text and code hold for every machine: no home folders, no absolute work folders (others' texts may
# speak of them).
step "machine paths"
if git grep -nIE '(^|[^[:alnum:]_./$])/(work|root|home|mnt|Users)/' -- . ':!tools/lint.sh' ':!data/domains/*.json'; then
  fail "paths of one machine in the lines above"
fi

# The commit to compare with; nothing where every source is to be read.
tidy_base() {
  if [ -n "${LINT_BASE:-}" ]; then echo "$LINT_BASE"
  elif [ -n "${CI:-}" ]; then git rev-parse --verify --quiet HEAD~8 || true
  else git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || true
  fi
}

tidy_files() {
  local base=''
  [ "${1:-}" = --all ] || base=$(tidy_base)
  if [ -z "$base" ]; then
    sources "${tidy_globs[@]}"
  else
    (git diff --name-only --diff-filter=d "$base" -- "${tidy_globs[@]}"
      git ls-files -o --exclude-standard "${tidy_globs[@]}") | sort -u
  fi
}

tidy_globs=('src/*.cc' 'bench/*.cc' 'tests/*.cc')
mapfile -t files < <(tidy_files "$@")
step "clang-tidy on ${#files[@]} files"
[ "${#files[@]}" = 0 ] || printf '%s\0' "${files[@]}" |
  xargs -0 -n 1 -P "$(nproc)" nice clang-tidy -p build --quiet \
    2> >(grep -vE '^[0-9]+ warnings? generated\.$|^Suppressed |^Use -header-filter' >&2) ||
  fail "clang-tidy"

[ "$failed" = 0 ] || exit 1
step "clean"
