#include "moe/conventional_layer.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/share.h"
#include "kernels/permute.h"

namespace wideep::moe {
namespace {

// A gathered row is one piece of memory: x, then weights, then ids.
int64_t row_width(const MoeShape& shape) {
  return shape.hidden_size + 2 * shape.top_k;
}

}  // namespace

ConventionalLayer::ConventionalLayer(const Options& options)
    : options_(options), shape_(options.shape) {
  CHECK(options_.experts.gate_up.size() == options_.experts.down.size());
  CHECK(options_.max_num_tokens >= 1);
}

int64_t ConventionalLayer::scratch_bytes(int max_rows) const {
  const int64_t ranks = options_.gather != nullptr ? options_.gather->size() : 1;
  // Every rank may round its part of a chunk up by one row.
  const int64_t rows = std::min<int64_t>(max_rows * ranks, options_.max_num_tokens + ranks);
  const int64_t pairs = rows * shape_.top_k;
  int64_t bytes =
      2 * Arena::matrix_bytes(pairs, shape_.hidden_size) +
      expert_scratch_bytes(pairs, shape_.intermediate_size) + 3 * Arena::matrix_bytes(pairs, 1) +
      Arena::matrix_bytes(std::ssize(options_.experts.down) + 1, 1) + 8 * Arena::kAlignment;
  if (options_.gather != nullptr) {
    bytes += 2 * Arena::matrix_bytes(rows, row_width(shape_)) +
             2 * Arena::matrix_bytes(rows, shape_.hidden_size) + 2 * Arena::matrix_bytes(pairs, 1);
  }
  return bytes;
}

void ConventionalLayer::run_own_experts(Stream& stream, Arena& arena, const MoeInput& input,
                                        MatrixView y) const {
  const Arena::Scope scope(arena);
  const int64_t num_pairs = input.x.rows * shape_.top_k;
  const int num_experts = static_cast<int>(std::ssize(options_.experts.down));

  kernels::PermutationParams permutation;
  permutation.ids = {input.ids, static_cast<size_t>(num_pairs)};
  permutation.group_begin = options_.first_expert;
  permutation.num_groups = num_experts;
  const std::span<int> offsets = arena.take<int>(num_experts + 1);
  const std::span<int> rows = arena.take<int>(num_pairs);
  const std::span<int> pairs = arena.take<int>(num_pairs);
  permutation.offsets = offsets.data();
  permutation.rows = rows.data();
  permutation.pairs = pairs.data();
  kernels::make_permutation(stream, permutation);
  const int num_rows = offsets.back();

  const MatrixView permuted = arena.matrix(num_rows, shape_.hidden_size);
  kernels::GatherRowsParams gather;
  gather.x = input.x;
  gather.pairs = pairs.first(static_cast<size_t>(num_rows));
  gather.top_k = shape_.top_k;
  gather.scales = shape_.weight_scales_input ? input.weights : nullptr;
  gather.y = permuted;
  kernels::gather_rows(stream, gather);

  const MatrixView down = arena.matrix(num_rows, shape_.hidden_size);
  run_experts(stream, arena, options_.experts, offsets, permuted, down);

  kernels::CombineRowsParams combine;
  combine.x = down;
  combine.rows = rows;
  combine.weights = shape_.weight_scales_input ? nullptr : input.weights;
  combine.top_k = shape_.top_k;
  combine.y = y;
  kernels::combine_rows(stream, combine);
}

Status ConventionalLayer::forward_gathered(Stream& stream, Arena& arena, const MoeInput& input,
                                           std::span<const int> counts, MatrixView y) const {
  const Arena::Scope scope(arena);
  const int64_t hidden = shape_.hidden_size;
  const int64_t width = row_width(shape_);
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const auto weight_bytes = static_cast<size_t>(shape_.top_k) * sizeof(float);

  const std::span<float> own = arena.take<float>(input.x.rows * width);
  for (int64_t t = 0; t < input.x.rows; ++t) {
    float* row = own.data() + t * width;
    std::memcpy(row, input.x.row<float>(t), static_cast<size_t>(hidden) * sizeof(float));
    std::memcpy(row + hidden, input.weights + t * shape_.top_k, weight_bytes);
    std::memcpy(row + hidden + shape_.top_k, input.ids + t * shape_.top_k, weight_bytes);
  }
  const std::span<float> all = arena.take<float>(total * width);
  std::vector<int64_t> sizes;
  for (const int count : counts) sizes.push_back(count * width * int64_t{sizeof(float)});
  RETURN_IF_ERROR(
      options_.gather->all_gather_v(std::as_bytes(own), sizes, std::as_writable_bytes(all)));

  const std::span<int32_t> ids = arena.take<int32_t>(total * shape_.top_k);
  const std::span<float> weights = arena.take<float>(total * shape_.top_k);
  for (int64_t t = 0; t < total; ++t) {
    const float* row = all.data() + t * width + hidden;
    std::memcpy(weights.data() + t * shape_.top_k, row, weight_bytes);
    std::memcpy(ids.data() + t * shape_.top_k, row + shape_.top_k, weight_bytes);
  }
  MoeInput gathered;
  gathered.x = ConstMatrixView(matrix_view(all.data(), total, width)).column_range(0, hidden);
  gathered.ids = ids.data();
  gathered.weights = weights.data();
  const MatrixView sums = arena.matrix(total, hidden);
  run_own_experts(stream, arena, gathered, sums);

  sizes.clear();
  for (const int count : counts) sizes.push_back(count * hidden);
  return options_.gather->reduce_scatter_v(
      {sums.row<float>(0), static_cast<size_t>(total * hidden)}, sizes,
      {y.row<float>(0), static_cast<size_t>(y.rows * hidden)});
}

Status ConventionalLayer::forward(Stream& stream, Arena& arena, const MoeInput& input,
                                  std::span<const int> dp_tokens, MatrixView y) {
  CHECK(y.stride == shape_.hidden_size);
  const bool is_gathered = options_.gather != nullptr;
  CHECK(!is_gathered || std::ssize(dp_tokens) == options_.gather->size());
  const int64_t tokens =
      is_gathered ? std::accumulate(dp_tokens.begin(), dp_tokens.end(), int64_t{0}) : input.x.rows;
  if (tokens == 0) return Status::ok();
  const int chunks = num_chunks(tokens, options_.max_num_tokens);
  std::vector<int> counts;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const auto [begin, end] = share_of(static_cast<int>(input.x.rows), chunks, chunk);
    const MoeInput rows = {input.x.row_range(begin, end - begin), input.ids + begin * shape_.top_k,
                           input.weights + begin * shape_.top_k};
    const MatrixView y_rows = y.row_range(begin, end - begin);
    if (!is_gathered) {
      run_own_experts(stream, arena, rows, y_rows);
      continue;
    }
    counts.clear();
    for (const int n : dp_tokens) {
      counts.push_back(share_of(n, chunks, chunk).size());
    }
    RETURN_IF_ERROR(forward_gathered(stream, arena, rows, counts, y_rows));
  }
  return Status::ok();
}

}  // namespace wideep::moe
