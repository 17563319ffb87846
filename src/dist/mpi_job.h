// This process's part in the job that mpirun started: waiting for MPI without keeping a core busy,
// hearing of failures, and ending together. Internal to dist.
//
// A rank that fails sends a notice to every other rank, over a communicator of its own. Every wait
// polls for notices, so the others come out of their waits with kAborted; then all ranks agree on
// the failure that counts (of the lowest rank) and have its full message. A rank that does not take
// part in time, because it computes or hangs outside of a wait, is killed with the job. A process
// that dies takes the job with it, which is mpirun's own rule.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "dist/world.h"

namespace wideep::dist {

// ok for MPI_SUCCESS; otherwise kUnavailable with MPI's own text.
Status mpi_status(int code, const char* call);

// What a rank does between two polls: yields at first, then sleeps for longer and longer.
class Backoff {
 public:
  explicit Backoff(const MpiOptions& options) : may_sleep_(options.yield_when_idle) {}
  void pause();

 private:
  bool may_sleep_;
  int polls_ = 0;
  std::chrono::microseconds sleep_{10};
};

class MpiJob {
 public:
  static Result<std::unique_ptr<MpiJob>> create(const MpiOptions& options);
  ~MpiJob();
  MpiJob(const MpiJob&) = delete;
  MpiJob& operator=(const MpiJob&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const MpiOptions& options() const { return options_; }

  // Waits for all of requests, the first num_receives of which are receives. kAborted when another
  // rank has failed; the receives are cancelled then, so that no buffer is written afterwards.
  Status wait(std::span<MPI_Request> requests, int num_receives);

  // kAborted when another rank has failed.
  Status check_notices();

  // Keeps the data of a send that nobody waits for until MPI is done with it.
  void keep(MPI_Request request, std::unique_ptr<std::byte[]> data);

  // After a run that went wrong here or elsewhere: tells the others where `own` is this rank's own
  // failure, and returns the one failure that all ranks agree on. May kill the job instead.
  Status agree_on_failure(const Status& own);

 private:
  struct Notice {
    int32_t rank = 0;
    char message[1020] = {};
  };
  struct Kept {
    MPI_Request request = MPI_REQUEST_NULL;
    std::unique_ptr<std::byte[]> data;
  };

  explicit MpiJob(const MpiOptions& options) : options_(options) {}

  Status listen();
  void give_up(std::span<MPI_Request> requests, int num_receives);
  void announce(const Status& own);
  // Polls one request of the agreement until the deadline, then kills the job.
  void wait_or_kill(MPI_Request& request, std::chrono::steady_clock::time_point deadline,
                    const Status* own);

  const MpiOptions options_;
  bool initialized_here_ = false;
  int rank_ = 0;
  int size_ = 1;
  MPI_Comm control_ = MPI_COMM_NULL;
  MPI_Request notice_request_ = MPI_REQUEST_NULL;
  Notice incoming_;
  std::optional<Notice> first_notice_;
  int lowest_failed_rank_ = 0;  // of the notices
  std::vector<Kept> kept_;
};

}  // namespace wideep::dist
