#include "dist/world.h"

#include <fmt/format.h>

#include <exception>
#include <utility>

#include "base/env.h"
#include "dist/transport.h"

namespace wideep::dist {

World::World(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
World::World(World&&) noexcept = default;
World& World::operator=(World&&) noexcept = default;
World::~World() = default;

Result<World> World::local(int size, const LocalOptions& options) {
  if (size < 1) {
    return Status::invalid_input(fmt::format("local world: {} ranks: must be 1 or more", size));
  }
  return World(make_local_transport(size, options));
}

Result<World> World::mpi(const MpiOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport, make_mpi_transport(options));
  return World(std::move(transport));
}

int World::size() const {
  return transport_->size();
}

bool World::holds_rank_zero() const {
  return transport_->holds_rank_zero();
}

Status World::run(const RankBody& body) {
  return transport_->run(body);
}

Status run_guarded(const RankBody& body, Communicator& communicator) {
  try {
    return body(communicator);
  } catch (const std::exception& error) {
    return Status::aborted(fmt::format("threw an exception: {}", error.what()));
  } catch (...) {
    return Status::aborted("threw something that is no std::exception");
  }
}

Result<std::optional<Launch>> launch_from_environment() {
  Launch launch;
  const std::pair<const env::Variable*, int*> fields[] = {
      {&env::kMpiSize, &launch.size},
      {&env::kMpiRank, &launch.rank},
      {&env::kMpiLocalSize, &launch.local_size},
      {&env::kMpiLocalRank, &launch.local_rank}};
  for (const auto& [variable, field] : fields) {
    ASSIGN_OR_RETURN(const std::optional<int> value, env::get_int(*variable));
    if (!value) {
      // mpirun sets all of them; without a size this process is not its child.
      if (variable == &env::kMpiSize) return std::optional<Launch>();
      return Status::invalid_input(fmt::format("environment variable {} is not set, but {} is",
                                               variable->name, env::kMpiSize.name));
    }
    *field = *value;
  }
  const auto check_rank = [](const env::Variable& rank_name, int rank,
                             const env::Variable& size_name, int size) -> Status {
    if (rank >= 0 && rank < size) return {};
    return Status::invalid_input(
        fmt::format("environment variables {}={} and {}={}: ranks go from 0 "
                    "to the size - 1",
                    rank_name.name, rank, size_name.name, size));
  };
  RETURN_IF_ERROR(check_rank(env::kMpiRank, launch.rank, env::kMpiSize, launch.size));
  RETURN_IF_ERROR(
      check_rank(env::kMpiLocalRank, launch.local_rank, env::kMpiLocalSize, launch.local_size));
  return std::optional<Launch>(launch);
}

}  // namespace wideep::dist
