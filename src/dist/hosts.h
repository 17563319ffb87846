// Which ranks share a host.
#pragma once

#include <memory>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

// A collective of the group: its ranks on this rank's host, in their order. Hosts are told apart by
// name.
Result<std::unique_ptr<Communicator>> split_by_host(Communicator& group);

}  // namespace wideep::dist
