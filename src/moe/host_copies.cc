#include <utility>
#include <vector>

#include "base/buffer.h"
#include "moe/expert_copies.h"

namespace wideep::moe {
namespace {

constexpr int kTag = 0x5107;  // of messages that carry an expert

class HostCopies : public ExpertCopies {
 public:
  HostCopies(dist::Communicator& group, const StagingShape& shape, Buffer staging)
      : group_(group), shape_(shape), staging_(std::move(staging)) {}

  Status begin_boundary() override {
    for (const Arrival& arrival : arrivals_) {
      RETURN_IF_ERROR(receive_expert(group_, at(arrival.place), arrival.source, kTag));
    }
    arrivals_.clear();
    return Status::ok();
  }

  Status send(const SlotBytes& from, int target, int place) override {
    if (target != group_.rank()) return send_expert(group_, from, target, kTag);
    copy_expert(from, at(place));
    return Status::ok();
  }
  Status receive(int source, int place) override {
    arrivals_.push_back({source, place});
    return Status::ok();
  }
  Status commit(int place, const SlotBytes& slot) override {
    copy_expert(at(place), slot);
    return Status::ok();
  }
  Status end_boundary() override { return Status::ok(); }
  int64_t num_done() override { return kAll; }

 private:
  struct Arrival {
    int source = 0;
    int place = 0;
  };

  SlotBytes at(int place) const {
    std::byte* const begin = staging_.data() + place * shape_.expert_bytes();
    return {{begin, static_cast<size_t>(shape_.gate_up_bytes)},
            {begin + shape_.gate_up_bytes, static_cast<size_t>(shape_.down_bytes)}};
  }

  dist::Communicator& group_;
  const StagingShape shape_;
  Buffer staging_;
  std::vector<Arrival> arrivals_;  // sent at the boundary before
};

}  // namespace

Result<std::unique_ptr<ExpertCopies>> make_host_copies(dist::Communicator& group,
                                                       const StagingShape& shape) {
  ASSIGN_OR_RETURN(Buffer staging, Buffer::allocate(shape.expert_bytes() * shape.places));
  return std::unique_ptr<ExpertCopies>(
      std::make_unique<HostCopies>(group, shape, std::move(staging)));
}

}  // namespace wideep::moe
