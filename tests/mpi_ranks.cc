// One process of an MPI world, started by mpirun from mpi_test: runs the cases named, or all that
// pass.
//
// usage: mpi_ranks passing|NAME [busy] [pieces]
// Prints "N ranks: ok", or the failure, on the process that holds rank 0; exits as wideep does.
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "dist/rank_cases_testing.h"
#include "dist/world.h"

namespace wideep::dist {
namespace {

Status run_passing(Communicator& world) {
  for (const RankCase& rank_case : passing_cases()) {
    const Status status = rank_case.body(world);
    if (!status.is_ok()) return status.prefixed(std::string(rank_case.name) + ": ");
  }
  return {};
}

// The last rank dies without a word while the others wait.
Status die(Communicator& world) {
  RETURN_IF_ERROR(world.barrier());
  if (world.rank() == world.size() - 1) raise(SIGKILL);
  return world.barrier();
}

// Rank 0 hears of nothing, because it never waits; the last rank fails.
Status fail_while_one_hangs(Communicator& world) {
  if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(600));
  if (world.rank() == world.size() - 1) return Status::io(kFailureMessage);
  return world.barrier();
}

// One rank leaves while the others still wait for it.
Status end_early(Communicator& world) {
  return world.rank() == 0 ? Status::ok() : world.barrier();
}

Status run_case(const std::string& name, Communicator& world) {
  if (name == "passing") return run_passing(world);
  if (name == "die") return die(world);
  if (name == "fail_while_one_hangs") return fail_while_one_hangs(world);
  if (name == "end_early") return end_early(world);
  for (const auto& cases : {passing_cases(), failing_cases()}) {
    for (const RankCase& rank_case : cases) {
      if (rank_case.name == name) return rank_case.body(world);
    }
  }
  return Status::invalid_input("no such case: " + name);
}

int run(const std::string& name, MpiOptions options) {
  options.abort_after_seconds = 1;
  options.on_kill = [](const Status& status) {
    fmt::print(stderr, "killed: {}\n", status.message());
  };
  Result<World> world = World::mpi(options);
  if (!world.is_ok()) {
    fmt::print(stderr, "error: {}\n", world.status().message());
    return 1;
  }
  if (World::mpi(options).is_ok()) {
    fmt::print(stderr, "error: a second MPI world was made\n");
    return 1;
  }
  Status status = world->run([&](Communicator& rank) { return run_case(name, rank); });
  // A world can be used again unless it failed.
  if (status.is_ok()) status = world->run(run_passing);
  const Status again = world->run([](Communicator&) { return Status::ok(); });
  if (again.is_ok() != status.is_ok()) status = Status::aborted("a failed world went on");
  if (world->holds_rank_zero()) {
    if (status.is_ok()) fmt::print("{} ranks: ok\n", world->size());
    if (!status.is_ok()) fmt::print(stderr, "error: {}\n", status.message());
    std::fflush(stdout);
  }
  return status.exit_code();
}

}  // namespace
}  // namespace wideep::dist

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  wideep::dist::MpiOptions options;
  for (int i = 2; i < argc; ++i) {
    if (argv[i] == std::string("busy")) options.yield_when_idle = false;
    // Small pieces take the path of data beyond 2 GiB.
    if (argv[i] == std::string("pieces")) options.largest_message_bytes = 100;
  }
  return wideep::dist::run(argv[1], options);
}
