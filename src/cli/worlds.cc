#include "cli/worlds.h"

#include <fmt/format.h>

#include <cstdio>

namespace wideep::cli {
namespace {

// Longer than ranks on GPUs wait for a peer of theirs.
constexpr int kAbortAfterSeconds = 60;

void print_failure(const Status& status) {
  fmt::print(stderr, "error: {}\n", status.message());
}

}  // namespace

Result<dist::World> local_world(int size) {
  return dist::World::local(size,
                            {.abort_after_seconds = kAbortAfterSeconds, .on_kill = print_failure});
}

Result<dist::World> mpi_world() {
  dist::MpiOptions options;
  options.on_kill = print_failure;
  return dist::World::mpi(options);
}

}  // namespace wideep::cli
