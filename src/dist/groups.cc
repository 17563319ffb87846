#include "dist/groups.h"

#include <fmt/format.h>

#include <utility>

namespace wideep::dist {

Result<Groups> make_groups(const Mapping& mapping, Communicator& world) {
  if (world.size() % mapping.world() != 0) {
    return Status::invalid_input(fmt::format(
        "world of {} ranks: tp {} x cp {} x pp {} needs {} ranks, or a multiple for data-parallel "
        "replicas",
        world.size(), mapping.tp(), mapping.cp(), mapping.pp(), mapping.world()));
  }
  Groups groups;
  const int rank = world.rank() % mapping.world();
  groups.replica = world.rank() / mapping.world();
  groups.num_replicas = world.size() / mapping.world();
  groups.coordinates = mapping.coordinates(rank);
  ASSIGN_OR_RETURN(groups.replicas, world.split(rank, groups.replica));
  ASSIGN_OR_RETURN(groups.model, world.split(groups.replica, rank));
  // A group is known by its smallest rank.
  const auto join = [&](const std::vector<int>& members) {
    return groups.model->split(members.front(), rank);
  };
  ASSIGN_OR_RETURN(groups.tp, join(mapping.tp_group(rank)));
  ASSIGN_OR_RETURN(groups.cp, join(mapping.cp_group(rank)));
  ASSIGN_OR_RETURN(groups.pp, join(mapping.pp_group(rank)));
  ASSIGN_OR_RETURN(groups.moe_tp, join(mapping.moe_tp_group(rank)));
  ASSIGN_OR_RETURN(groups.moe_ep, join(mapping.moe_ep_group(rank)));
  return groups;
}

}  // namespace wideep::dist
