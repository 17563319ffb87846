#include <mpi.h>

#include <numeric>
#include <utility>
#include <vector>

#include "dist/mpi_communicator.h"
#include "dist/mpi_job.h"
#include "dist/transport.h"

namespace wideep::dist {

namespace {

class MpiTransport : public Transport {
 public:
  explicit MpiTransport(std::unique_ptr<MpiJob> job) : job_(std::move(job)) {}

  int size() const override { return job_->size(); }
  bool holds_rank_zero() const override { return job_->rank() == 0; }

  Status run(const RankBody& body) override {
    if (!failure_.is_ok()) return failure_.prefixed("the MPI world has ended: ");
    MPI_Comm comm = MPI_COMM_NULL;
    // A communicator for each run: messages that one run left behind do not reach the next.
    RETURN_IF_ERROR(mpi_status(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup"));
    std::vector<int> ranks(size());
    std::iota(ranks.begin(), ranks.end(), 0);
    MpiCommunicator world(*job_, comm, std::move(ranks));
    Status status = run_guarded(body, world);
    if (status.is_ok()) status = world.end();
    if (status.is_ok()) return {};
    failure_ = job_->agree_on_failure(status);
    return failure_;
  }

 private:
  std::unique_ptr<MpiJob> job_;
  Status failure_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_mpi_transport(const MpiOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<MpiJob> job, MpiJob::create(options));
  return std::unique_ptr<Transport>(std::make_unique<MpiTransport>(std::move(job)));
}

}  // namespace wideep::dist
