#include "moe/host_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "dist/hosts.h"

namespace wideep::moe {
namespace {

constexpr int kTag = 0x5705;

// How a rank tells the others of its segment.
struct SegmentName {
  std::array<char, 248> name{};
  int64_t bytes = 0;
};

// Where a rank of the group stands on its host.
struct HostPlace {
  int32_t rank = 0;
  int32_t size = 0;
};

}  // namespace

Result<std::unique_ptr<HostWeights>> HostWeights::create(dist::Communicator& group,
                                                         const HostWeightsOptions& options) {
  CHECK(!options.slots.empty() && options.slots.size() == options.placements.size());
  ASSIGN_OR_RETURN(const std::unique_ptr<dist::Communicator> host, dist::split_by_host(group));
  std::unique_ptr<HostWeights> weights(new HostWeights());
  weights->gate_up_bytes_ = std::ssize(options.slots[0][0].gate_up);
  weights->down_bytes_ = std::ssize(options.slots[0][0].down);
  RETURN_IF_ERROR(weights->make_segments(*host, options, group.world_ranks()[group.rank()]));
  RETURN_IF_ERROR(weights->fill(group, *host, options));
  return weights;
}

SlotBytes HostWeights::place(const RankShare& share, int layer_index, int expert) const {
  const Share& experts = share.experts;
  const int64_t row = int64_t{layer_index} * experts.size() + expert - experts.begin;
  std::byte* data = share.segment.bytes().data() + row * (gate_up_bytes_ + down_bytes_);
  return {{data, static_cast<size_t>(gate_up_bytes_)},
          {data + gate_up_bytes_, static_cast<size_t>(down_bytes_)}};
}

SlotBytes HostWeights::expert(int layer_index, int expert) const {
  const auto share = std::ranges::find_if(
      shares_, [&](const RankShare& each) { return each.experts.contains(expert); });
  CHECK(share != shares_.end());
  return place(*share, layer_index, expert);
}

Status HostWeights::make_segments(dist::Communicator& host, const HostWeightsOptions& options,
                                  int world_rank) {
  const int64_t layer_bytes = gate_up_bytes_ + down_bytes_;
  own_share_ = host.rank();
  for (int r = 0; r < host.size(); ++r) {
    const Share experts = share_of(options.shape.num_experts, host.size(), r);
    shares_.emplace_back().experts = experts;
    bytes_of_host_ += layer_bytes * experts.size() * std::ssize(options.slots);
  }
  SharedMemory memory(options.memory);
  RankShare& own = shares_[own_share_];
  SegmentName name;
  name.bytes = layer_bytes * own.experts.size() * std::ssize(options.slots);
  if (name.bytes > 0) {
    ASSIGN_OR_RETURN(own.segment,
                     memory.create(fmt::format("experts_rank{}", world_rank), name.bytes));
    CHECK(own.segment.name().size() < name.name.size());
    std::ranges::copy(own.segment.name(), name.name.begin());
    note_ = own.segment.huge_page_note();
  }
  if (memory.leftovers().segments > 0) {
    note_ += fmt::format("{}removed {} segments ({} bytes) that a crashed run had left",
                         note_.empty() ? "" : "; ", memory.leftovers().segments,
                         memory.leftovers().bytes);
  }
  std::vector<SegmentName> names(static_cast<size_t>(host.size()));
  RETURN_IF_ERROR(host.all_gather(std::as_bytes(std::span(&name, 1)),
                                  std::as_writable_bytes(std::span(names))));
  for (int r = 0; r < host.size(); ++r) {
    if (r == own_share_ || names[r].bytes == 0) continue;
    ASSIGN_OR_RETURN(shares_[r].segment, memory.open(names[r].name.data(), names[r].bytes,
                                                     SharedMemory::Access::kRead));
  }
  // Everybody has everything open: without a name nothing can be left behind.
  RETURN_IF_ERROR(host.barrier());
  own.segment.remove_name();
  return Status::ok();
}

Status HostWeights::fill(dist::Communicator& group, dist::Communicator& host,
                         const HostWeightsOptions& options) {
  const HostPlace own_place = {host.rank(), host.size()};
  std::vector<HostPlace> places(static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span(&own_place, 1)),
                                   std::as_writable_bytes(std::span(places))));
  const eplb::Shape& shape = options.shape;
  const auto keeps = [&](int rank, int expert) {
    return share_of(shape.num_experts, places[rank].size, places[rank].rank).contains(expert);
  };
  for (size_t layer = 0; layer < options.slots.size(); ++layer) {
    const std::vector<int>& placement = options.placements[layer];
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      const auto slot = static_cast<int>(std::ranges::find(placement, expert) - placement.begin());
      const int holder = shape.rank_of(slot);
      const bool holds = holder == group.rank();
      const SlotBytes* held =
          holds ? &options.slots[layer][slot % shape.slots_per_rank()] : nullptr;
      for (int keeper = 0; keeper < group.size(); ++keeper) {
        if (!keeps(keeper, expert)) continue;
        const bool is_keeper = keeper == group.rank();
        if (holds && !is_keeper) {
          RETURN_IF_ERROR(send_expert(group, *held, keeper, kTag));
        }
        if (!is_keeper) continue;
        const SlotBytes kept = place(shares_[own_share_], static_cast<int>(layer), expert);
        if (holds) {
          copy_expert(*held, kept);
          continue;
        }
        RETURN_IF_ERROR(receive_expert(group, kept, holder, kTag));
      }
    }
    // Bounds what is under way to one layer; after the last, everything is there.
    RETURN_IF_ERROR(group.barrier());
  }
  return Status::ok();
}

}  // namespace wideep::moe
