// The groups that a rank belongs to in each way of splitting the model.
#pragma once

#include <memory>

#include "base/status.h"
#include "config/mapping.h"
#include "dist/communicator.h"

namespace wideep::dist {

// The world is a number of data-parallel replicas of mapping.world() consecutive ranks each. Every
// communicator counts its ranks by the coordinate that it is named for: tp->rank() ==
// coordinates.tp_rank, and so on. Groups of one rank are there too.
struct Groups {
  int replica = 0;
  int num_replicas = 1;
  Coordinates coordinates;                 // in the replica
  std::unique_ptr<Communicator> replicas;  // the ranks with these coordinates, one a replica
  std::unique_ptr<Communicator> model;     // all ranks of this replica
  std::unique_ptr<Communicator> tp;
  std::unique_ptr<Communicator> cp;
  std::unique_ptr<Communicator> pp;
  std::unique_ptr<Communicator> moe_tp;
  std::unique_ptr<Communicator> moe_ep;
};

// A collective of the whole world. kInvalidInput where the world's size is no multiple of the
// mapping's.
Result<Groups> make_groups(const Mapping& mapping, Communicator& world);

}  // namespace wideep::dist
