// In place of the MPI transport in a build without MPI.
#include "dist/transport.h"

namespace wideep::dist {

Result<std::unique_ptr<Transport>> make_mpi_transport(const MpiOptions& /*options*/) {
  return Status::unavailable(
      "this build has no MPI: install libopenmpi-dev and openmpi-bin, then configure and build "
      "again");
}

}  // namespace wideep::dist
