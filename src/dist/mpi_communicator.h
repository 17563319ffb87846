// A group of MPI processes. Internal to dist.
//
// Every collective first exchanges the headers of the ranks' calls, so that all ranks judge the
// same calls and none is left waiting for data of a size that does not come. Data then goes
// directly between pairs of ranks: an all-reduce of few bytes gathers all vectors on every rank,
// one of many bytes sums a slice on each rank and gathers the slices; both sum in the order of the
// ranks.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "dist/call.h"
#include "dist/communicator.h"
#include "dist/mpi_job.h"

namespace wideep::dist {

class MpiCommunicator : public Communicator {
 public:
  // Takes over `comm`. `job` must outlive all calls.
  MpiCommunicator(MpiJob& job, MPI_Comm comm, std::vector<int> world_ranks);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(world_ranks_.size()); }
  std::span<const int> world_ranks() const override { return world_ranks_; }
  bool shares_memory() const override { return size() == 1; }

  // Waits until all ranks have ended too; kAborted where one makes another call.
  Status end() { return collective({.op = Op::kEnd}); }

 private:
  struct Outgoing {
    int peer;
    std::span<const std::byte> data;
  };
  struct Incoming {
    int peer;
    std::span<std::byte> data;
  };

  Status collective(const Call& call) override;
  Status do_send(std::span<const std::byte> data, int peer, int tag) override;
  Status do_recv(std::span<std::byte> data, int peer, int tag) override;
  Result<bool> try_recv(int peer, int tag) override;
  Result<std::unique_ptr<Communicator>> do_split(int color, int key) override;

  // The calls of all ranks into records_, judged.
  Status gather_calls(const Call& call);
  Status gather_counts(const Call& call);
  // Moves sends_ and receives_, and forgets them.
  Status exchange();
  // `own` to all other ranks, theirs into place(rank).
  template <typename Place>
  Status exchange_with_all(std::span<const std::byte> own, const Place& place);

  Status move(const Call& call);
  Status broadcast_data(const Call& call);
  Status all_gather_data(const Call& call);
  template <typename T, typename Combine>
  Status all_reduce_data(std::span<std::byte> data);
  // This rank's elements [begin[rank], begin[rank + 1]) of the sum of every rank's `in`.
  template <typename T, typename Combine>
  Status reduce_slices(std::span<const std::byte> in, std::span<const int64_t> begin,
                       std::span<std::byte> out);
  Status reduce_scatter_data(const Call& call);
  Status all_to_all_data(const Call& call);

  MpiJob& job_;
  MPI_Comm comm_;
  int rank_ = 0;
  const std::vector<int> world_ranks_;

  // Reused between calls.
  std::vector<CallHeader> headers_;  // [size]
  std::vector<CallRecord> records_;  // [size]
  std::vector<int64_t> counts_;      // [size, 2, size]: counts and recv_counts of each rank
  std::vector<std::byte> scratch_;   // vectors of other ranks
  std::vector<Outgoing> sends_;
  std::vector<Incoming> receives_;
  std::vector<MPI_Request> requests_;
};

}  // namespace wideep::dist
