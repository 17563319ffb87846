// The fallback: every rank gets all tokens of the group and takes the rows of its slots; what the
// slots computed is summed where the token is by a reduce-scatter, which adds the ranks' parts in
// their order. In exact mode it scatters every row by itself: one rank has it, the others have
// zeros.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "alltoall/host_group.h"
#include "alltoall/row_sums.h"
#include "kernels/permute.h"

namespace wideep::alltoall {
namespace {

class GatherGroup : public HostGroup {
 public:
  GatherGroup(dist::Communicator& group, const GroupShape& shape)
      : HostGroup(group, shape),
        width_(shape.hidden_size + 2 * int64_t{shape.top_k}),
        num_tokens_(static_cast<size_t>(group.size())) {}

  Status plan(Stream& stream, const Routing& routing) override;
  Result<Received> dispatch(Stream& stream, ConstMatrixView x) override;
  Status combine(Stream& stream, MatrixView y) override;

  using HostGroup::allocate;

 private:
  bool is_exact() const { return shape_.combine == CombineMode::kExact; }
  Status gather(ConstMatrixView x);
  Status scatter(std::span<const float> parts, int64_t floats_of_token, std::span<float> own);

  const int64_t width_;              // floats of a gathered row: x, weights, slots
  std::vector<int64_t> num_tokens_;  // [size]
  int64_t total_ = 0;
  std::vector<float> own_;          // [num_tokens, width]
  std::vector<float> all_;          // [total, width]
  std::vector<int32_t> slots_;      // [total, top_k]
  std::vector<float> weights_;      // [total, top_k]
  std::vector<int> rows_of_pairs_;  // [total * top_k] row here, -1 for other ranks' slots
  std::vector<float> parts_;
  std::vector<float> own_rows_;
};

Status GatherGroup::plan(Stream& stream, const Routing& routing) {
  RETURN_IF_ERROR(HostGroup::plan(stream, routing));
  RETURN_IF_ERROR(group_.all_gather(std::as_bytes(std::span(&routing.num_tokens, 1)),
                                    std::as_writable_bytes(std::span(num_tokens_))));
  total_ = 0;
  for (const int64_t num : num_tokens_) total_ += num;
  return Status::ok();
}

Status GatherGroup::gather(ConstMatrixView x) {
  const int64_t hidden = shape_.hidden_size, top_k = shape_.top_k;
  const auto pair_bytes = static_cast<size_t>(top_k) * sizeof(float);
  own_.resize(static_cast<size_t>(x.rows * width_));
  for (int64_t t = 0; t < x.rows; ++t) {
    float* row = own_.data() + t * width_;
    std::copy_n(x.row<float>(t), hidden, row);
    std::memcpy(row + hidden, routing().weights + t * top_k, pair_bytes);
    std::memcpy(row + hidden + top_k, routing().slots.data() + t * top_k, pair_bytes);
  }
  std::vector<int64_t> bytes;
  for (const int64_t num : num_tokens_) {
    bytes.push_back(num * width_ * static_cast<int64_t>(sizeof(float)));
  }
  all_.resize(static_cast<size_t>(total_ * width_));
  RETURN_IF_ERROR(group_.all_gather_v(std::as_bytes(std::span<const float>(own_)), bytes,
                                      std::as_writable_bytes(std::span(all_))));
  slots_.resize(static_cast<size_t>(total_ * top_k));
  weights_.resize(slots_.size());
  for (int64_t t = 0; t < total_; ++t) {
    const float* row = all_.data() + t * width_ + hidden;
    std::memcpy(weights_.data() + t * top_k, row, pair_bytes);
    std::memcpy(slots_.data() + t * top_k, row + top_k, pair_bytes);
  }
  return Status::ok();
}

Result<Received> GatherGroup::dispatch(Stream& stream, ConstMatrixView x) {
  CHECK(x.dtype == DType::kF32 && x.rows == routing().num_tokens);
  CHECK_EQ(x.columns, shape_.hidden_size);
  RETURN_IF_ERROR(gather(x));
  // Gathered tokens are in the order of (source rank, token), so a stable sort by slot gives the
  // order of every transport.
  std::vector<int> offsets(layout_.offsets().size()), pairs(slots_.size());
  rows_of_pairs_.resize(slots_.size());
  kernels::PermutationParams permutation;
  permutation.ids = slots_;
  permutation.group_begin = rank() * layout_.slots_per_rank();
  permutation.num_groups = layout_.slots_per_rank();
  permutation.offsets = offsets.data();
  permutation.rows = rows_of_pairs_.data();
  permutation.pairs = pairs.data();
  kernels::make_permutation(stream, permutation);
  CHECK(std::ranges::equal(offsets, layout_.offsets()));
  kernels::GatherRowsParams gather;
  gather.x =
      ConstMatrixView(matrix_view(all_.data(), total_, width_)).column_range(0, shape_.hidden_size);
  gather.pairs = std::span(pairs).first(static_cast<size_t>(layout_.num_rows()));
  gather.top_k = shape_.top_k;
  gather.scales = shape_.weight_scales_input ? weights_.data() : nullptr;
  gather.y = rows();
  kernels::gather_rows(stream, gather);
  return received();
}

Status GatherGroup::scatter(std::span<const float> parts, int64_t floats_of_token,
                            std::span<float> own) {
  std::vector<int64_t> counts;
  for (const int64_t num : num_tokens_) counts.push_back(num * floats_of_token);
  return group_.reduce_scatter_v(parts, counts, own);
}

Status GatherGroup::combine(Stream& stream, MatrixView y) {
  CHECK(y.dtype == DType::kF32 && y.rows == routing().num_tokens);
  CHECK(y.columns == shape_.hidden_size && y.stride == y.columns);
  const int64_t hidden = shape_.hidden_size;
  kernels::CombineRowsParams sums;
  sums.top_k = shape_.top_k;
  if (!is_exact()) {
    parts_.resize(static_cast<size_t>(total_ * hidden));
    sums.x = outputs();
    sums.rows = rows_of_pairs_;
    sums.weights = shape_.weight_scales_input ? nullptr : weights_.data();
    sums.y = matrix_view(parts_.data(), total_, hidden);
    kernels::combine_rows(stream, sums);
    return scatter(parts_, hidden, {y.row<float>(0), static_cast<size_t>(y.rows * hidden)});
  }
  parts_.assign(static_cast<size_t>(total_ * shape_.top_k * hidden), 0.0F);
  for (size_t pair = 0; pair < rows_of_pairs_.size(); ++pair) {
    if (rows_of_pairs_[pair] < 0) continue;
    std::copy_n(outputs().row<float>(rows_of_pairs_[pair]), hidden,
                parts_.data() + static_cast<int64_t>(pair) * hidden);
  }
  const int64_t num_pairs = y.rows * shape_.top_k;
  own_rows_.resize(static_cast<size_t>(num_pairs * hidden));
  RETURN_IF_ERROR(scatter(parts_, shape_.top_k * hidden, own_rows_));
  std::vector<int> rows(static_cast<size_t>(num_pairs));
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    rows[pair] = routing().slots[pair] < 0 ? -1 : static_cast<int>(pair);
  }
  sums.x = matrix_view(std::as_const(own_rows_).data(), num_pairs, hidden);
  sums.rows = rows;
  sums.weights = shape_.weight_scales_input ? nullptr : routing().weights;
  sums.y = y;
  kernels::combine_rows(stream, sums);
  return Status::ok();
}

}  // namespace

Result<std::unique_ptr<AllToAll>> make_gather_group(dist::Communicator& group,
                                                    const GroupShape& shape) {
  auto made = std::make_unique<GatherGroup>(group, shape);
  RETURN_IF_ERROR(made->allocate());
  return Result<std::unique_ptr<AllToAll>>(std::move(made));
}

}  // namespace wideep::alltoall
