#include "alltoall/host_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace wideep::alltoall {

HostGroup::HostGroup(dist::Communicator& group, const GroupShape& shape)
    : group_(group),
      shape_(shape),
      layout_(group.rank(), group.size(), shape),
      counts_(static_cast<size_t>(group.size()) * shape.num_slots) {}

int64_t HostGroup::bytes_of_rows(const GroupShape& shape) {
  return shape.max_tokens * shape.top_k * shape.hidden_size * static_cast<int64_t>(sizeof(float));
}

Status HostGroup::allocate() {
  const int64_t bytes = bytes_of_rows(shape_);
  ASSIGN_OR_RETURN(rows_, Buffer::allocate(bytes));
  ASSIGN_OR_RETURN(outputs_, Buffer::allocate(bytes));
  return Status::ok();
}

MatrixView HostGroup::rows() const {
  return matrix_view(reinterpret_cast<float*>(rows_.data()), layout_.num_rows(),
                     shape_.hidden_size);
}

MatrixView HostGroup::outputs() const {
  return matrix_view(reinterpret_cast<float*>(outputs_.data()), layout_.num_rows(),
                     shape_.hidden_size);
}

Status HostGroup::plan(Stream& stream, const Routing& routing) {
  routing_ = routing;
  layout_.sort_pairs(stream, routing);
  RETURN_IF_ERROR(group_.all_gather(std::as_bytes(layout_.own_counts()),
                                    std::as_writable_bytes(std::span(counts_))));
  const int64_t sum = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  if (const int64_t most = shape_.max_tokens * shape_.top_k; sum > most) {
    return Status::invalid_input(fmt::format(
        "all-to-all: the ranks send {} rows in one batch: the group was made for {} ({} tokens x "
        "top-k {}); cut the batch into chunks",
        sum, most, shape_.max_tokens, shape_.top_k));
  }
  layout_.place(counts_);
  return Status::ok();
}

void deliver_row(const GroupShape& shape, const float* from, float weight, float* to) {
  if (!shape.weight_scales_input) {
    std::copy_n(from, shape.hidden_size, to);
    return;
  }
  for (int i = 0; i < shape.hidden_size; ++i) to[i] = from[i] * weight;
}

}  // namespace wideep::alltoall
