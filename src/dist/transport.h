// What a World is made of: one implementation for threads, one for MPI. Internal to dist.
#pragma once

#include <memory>

#include "base/status.h"
#include "dist/world.h"

namespace wideep::dist {

class Transport {
 public:
  Transport() = default;
  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  virtual int size() const = 0;
  virtual bool holds_rank_zero() const = 0;
  virtual Status run(const RankBody& body) = 0;
};

std::unique_ptr<Transport> make_local_transport(int size, const LocalOptions& options);

// kUnavailable in a build without MPI.
Result<std::unique_ptr<Transport>> make_mpi_transport(const MpiOptions& options);

// Runs body; what it throws becomes a Status.
Status run_guarded(const RankBody& body, Communicator& communicator);

}  // namespace wideep::dist
