// World: the ranks that run one model together, as threads of this process or as processes that
// mpirun started. What runs on a rank is the same code for both.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

struct MpiOptions {
  // A waiting rank polls for some tens of microseconds and then sleeps between polls, up to half a
  // millisecond, so that idle ranks leave the cores to others. Off: it polls all the time, which
  // answers fastest and keeps one core a rank busy.
  bool yield_when_idle = true;
  // Longer data goes as several messages; MPI itself counts bytes in 32 bits.
  int64_t largest_message_bytes = int64_t{1} << 30;
  // After a rank has failed, how long it waits for all others to notice before it kills the job.
  int abort_after_seconds = 5;
  // Called on the failing rank's process just before the job is killed because not all ranks
  // noticed in time; the place to print the message, since run() does not return then.
  std::function<void(const Status&)> on_kill = {};
};

struct LocalOptions {
  // After a rank has failed, how long the others may take to end before this process is ended, with
  // the exit code of the failure: threads that compute, or wait for a GPU whose peer is gone, hear
  // of nothing and cannot be stopped. None: as long as they take.
  std::optional<int> abort_after_seconds = std::nullopt;
  // Called just before; the place to print the message, since run() does not return then.
  std::function<void(const Status&)> on_kill = {};
};

class Transport;

// What runs on each rank.
using RankBody = std::function<Status(Communicator&)>;

class World {
 public:
  // `size` >= 1 ranks as threads of this process. kInvalidInput for other sizes.
  static Result<World> local(int size, const LocalOptions& options = {});

  // One rank a process, from mpirun. Once in a process, and from the main thread, which must also
  // be the one to call run() and to destroy the world. kUnavailable where this build has no MPI.
  static Result<World> mpi(const MpiOptions& options);

  World(World&&) noexcept;
  World& operator=(World&&) noexcept;
  ~World();

  int size() const;

  // Whether this process holds rank 0. run() returns the same status in every process of an MPI
  // world, so the process that holds rank 0 prints results and the message, and the others exit.
  // Print before the world is destroyed: mpirun ends the job when the first process exits with an
  // error, and no process leaves the world's destructor before all have entered it.
  bool holds_rank_zero() const;

  // Runs `body` on each rank that this process holds, rank 0 of a local world on this thread, and
  // returns when all ranks of the world have ended. A rank that returns an error or throws ends the
  // others at their next wait; the first failure, as "rank R: message", is the result. May be
  // called again, except after a failure in an MPI world.
  Status run(const RankBody& body);

 private:
  explicit World(std::unique_ptr<Transport> transport);

  std::unique_ptr<Transport> transport_;
};

// What mpirun told this process, before MPI is initialised.
struct Launch {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the processes on this host
  int local_size = 1;
};

// Nothing where this process was not started by mpirun. kInvalidInput where the variables of
// base/env.h are malformed or contradict each other.
Result<std::optional<Launch>> launch_from_environment();

}  // namespace wideep::dist
