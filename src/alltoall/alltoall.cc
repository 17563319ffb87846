#include "alltoall/alltoall.h"

#include <fmt/format.h>

#include <array>
#include <vector>

#include "alltoall/host_group.h"
#ifdef WIDEEP_CUDA
#include "alltoall/nvlink_group.h"
#endif

namespace wideep::alltoall {
namespace {

// What create() compares, in an order that the message can name.
constexpr std::array<const char*, 15> kFieldNames = {
    "num_slots",           "top_k",     "hidden_size", "max_tokens", "combine",
    "weight_scales_input", "transport", "format",      "layout",     "row_alignment",
    "max_tokens_of_rank",  "max_rows",  "row_bytes",   "num_sms",    "num_counts"};
using Fields = std::array<int64_t, kFieldNames.size()>;

Fields fields_of(const GroupShape& shape) {
  return {shape.num_slots,
          shape.top_k,
          shape.hidden_size,
          shape.max_tokens,
          static_cast<int64_t>(shape.combine),
          static_cast<int64_t>(shape.weight_scales_input),
          static_cast<int64_t>(shape.transport),
          static_cast<int64_t>(shape.format),
          static_cast<int64_t>(shape.layout),
          shape.row_alignment,
          shape.max_tokens_of_rank,
          shape.max_rows,
          shape.row_bytes,
          shape.num_sms,
          shape.num_counts};
}

Status check_same(dist::Communicator& group, const GroupShape& shape) {
  const Fields own = fields_of(shape);
  std::vector<Fields> all(static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  for (int rank = 1; rank < group.size(); ++rank) {
    for (size_t field = 0; field < own.size(); ++field) {
      if (all[rank][field] == all[0][field]) continue;
      return Status::invalid_input(fmt::format(
          "all-to-all: {} is {} on rank {} and {} on rank {}: all ranks of a group need the same",
          kFieldNames[field], all[0][field], group.world_ranks()[0], all[rank][field],
          group.world_ranks()[rank]));
    }
  }
  return Status::ok();
}

Status check_shape(const GroupShape& shape, int size) {
  if (shape.num_slots < 1 || shape.num_slots % size != 0) {
    return Status::invalid_input(fmt::format(
        "all-to-all: {} slots: must be a multiple of the group's {} ranks", shape.num_slots, size));
  }
  if (shape.top_k < 1 || shape.hidden_size < 1 || shape.max_tokens < 1) {
    return Status::invalid_input(
        fmt::format("all-to-all: top_k {}, hidden_size {}, max_tokens {}: each must be at least 1",
                    shape.top_k, shape.hidden_size, shape.max_tokens));
  }
  // Rows are counted in 32 bits.
  if (shape.max_tokens > INT32_MAX / shape.top_k) {
    return Status::invalid_input(
        fmt::format("all-to-all: max_tokens {} x top_k {}: more than 2^31 rows", shape.max_tokens,
                    shape.top_k));
  }
  return Status::ok();
}

// The transports in host memory carry one format in one layout.
Status check_host_shape(const GroupShape& shape) {
  if (shape.format == RowFormat::kF32 && shape.layout == RowLayout::kBySlot &&
      shape.row_alignment == 1) {
    return Status::ok();
  }
  return Status::invalid_input(
      "all-to-all: transports in host memory carry F32 rows by slot without alignment: use "
      "transport NVLink for other formats and layouts");
}

#ifdef WIDEEP_CUDA
Result<std::unique_ptr<AllToAll>> make_nvlink_group(dist::Communicator& group,
                                                    const GroupShape& shape) {
  ASSIGN_OR_RETURN(std::unique_ptr<NvlinkGroup> result, NvlinkGroup::create(group, shape));
  return std::unique_ptr<AllToAll>(std::move(result));
}
#else
Result<std::unique_ptr<AllToAll>> make_nvlink_group(dist::Communicator&, const GroupShape&) {
  return Status::unavailable("all-to-all: transport NVLink: this build has no CUDA (preset cuda)");
}
#endif

}  // namespace

int64_t AllToAll::buffer_bytes(const GroupShape& shape) {
  return 2 * HostGroup::bytes_of_rows(shape);
}

Result<std::unique_ptr<AllToAll>> AllToAll::create(dist::Communicator& group,
                                                   const GroupShape& shape) {
  RETURN_IF_ERROR(check_same(group, shape));
  RETURN_IF_ERROR(check_shape(shape, group.size()));
  if (shape.transport != Transport::kNvlink) RETURN_IF_ERROR(check_host_shape(shape));
  switch (shape.transport) {
    case Transport::kAuto:
      return group.shares_memory() ? make_shared_memory_group(group, shape)
                                   : make_message_group(group, shape);
    case Transport::kSharedMemory:
      if (!group.shares_memory()) {
        return Status::unavailable(
            "all-to-all: transport shared memory: the group's ranks are different processes");
      }
      return make_shared_memory_group(group, shape);
    case Transport::kMessages:
      return make_message_group(group, shape);
    case Transport::kGather:
      return make_gather_group(group, shape);
    case Transport::kNvlink:
      return make_nvlink_group(group, shape);
  }
  return Status::invalid_input("all-to-all: unknown transport");
}

}  // namespace wideep::alltoall
