// The worlds of programs: where ranks do not hear of a failure in time, its message is printed and
// the job ends. Errors are those of dist::World.
#pragma once

#include "base/status.h"
#include "dist/world.h"

namespace wideep::cli {

Result<dist::World> local_world(int size);
Result<dist::World> mpi_world();

}  // namespace wideep::cli
