// What ranks must be able to do together, as bodies for World::run: the same list runs on local
// worlds (dist_test) and under mpirun (tests/). A body compares with answers that each rank works
// out alone, and returns an error that says what is wrong.
#pragma once

#include <span>
#include <string>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

struct RankCase {
  const char* name;
  Status (*body)(Communicator& world);
};

// Every rank's body returns ok.
std::span<const RankCase> passing_cases();

// One rank of two or more fails while the others wait; run() returns that rank's failure,
// kFailureMessage, and the other ranks' waits ended.
std::span<const RankCase> failing_cases();
inline constexpr const char* kFailureMessage = "the disk of this rank is full";

}  // namespace wideep::dist
