#!/usr/bin/env bash
# Formatting, the include arrows, machine paths in the text, and clang-tidy on what changed.
#
# usage: tools/lint.sh [--all]      needs build/compile_commands.json (make build)
# clang-tidy reads the sources that differ from where this branch left main, on CI those of the last
# day's commits, with what is not committed yet; all of them with --all and where nothing differs.
# LINT_BASE names another commit to compare with.
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

# Text and code hold for every machine: no home folders, no absolute work folders.
step "machine paths"
if git grep -nIE '(^|[^[:alnum:]_./$])/(work|root|home|mnt|Users)/' -- . ':!tools/lint.sh'; then
  fail "paths of one machine in the lines above"
fi

# The commit to compare with; nothing where every source is to be read.
tidy_base() {
  if [ -n "${LINT_BASE:-}" ]; then echo "$LINT_BASE"
  elif [ -n "${CI:-}" ]; then git rev-list -1 --before="$(($(git log -1 --format=%ct) - 86400))" HEAD
  else git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || true
  fi
}

tidy_files() {
  local all changed='' base=''
  all=$(sources 'src/*.cc' 'bench/*.cc' 'tests/*.cc')
  [ "${1:-}" = --all ] || base=$(tidy_base)
  if [ -n "$base" ]; then
    changed=$( (git diff --name-only "$base" --; git ls-files -o --exclude-standard) | sort -u |
      grep -Fxf <(echo "$all") || true)
  fi
  echo "${changed:-$all}"
}

mapfile -t files < <(tidy_files "$@")
step "clang-tidy on ${#files[@]} files"
printf '%s\0' "${files[@]}" |
  xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build --quiet \
    2> >(grep -vE '^[0-9]+ warnings? generated\.$|^Suppressed |^Use -header-filter' >&2) ||
  fail "clang-tidy"

[ "$failed" = 0 ] || exit 1
step "clean"
