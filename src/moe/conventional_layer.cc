#include "moe/conventional_layer.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "base/share.h"
#include "kernels/permute.h"
#include "kernels/transfer.h"
#include "moe/device_experts.h"

namespace wideep::moe {
namespace {

// A gathered row is one piece of memory: x, then weights, then ids.
struct GatheredRow {
  GatheredRow(const MoeShape& shape, DType dtype)
      : x_bytes(int64_t{shape.hidden_size} * dtype_size(dtype)),
        top_k_bytes(int64_t{shape.top_k} * int64_t{sizeof(float)}),
        bytes(Arena::padded(x_bytes + 2 * top_k_bytes)) {}

  int64_t x_bytes;
  int64_t top_k_bytes;  // of the weights, and of the ids
  int64_t bytes;
};

// [rows, row_bytes] as bytes.
MatrixView bytes_view(std::span<std::byte> rows, int64_t row_bytes) {
  return {rows.data(), DType::kU8, std::ssize(rows) / row_bytes, row_bytes, row_bytes};
}
template <typename T>
ConstMatrixView bytes_view(const T* rows, int64_t count, int64_t row_bytes) {
  return {reinterpret_cast<const std::byte*>(rows), DType::kU8, count, row_bytes, row_bytes};
}
ConstMatrixView bytes_view(ConstMatrixView x) {
  const int size = dtype_size(x.dtype);
  return {x.data, DType::kU8, x.rows, x.columns * size, x.stride * size};
}

// Every rank may round its part of a chunk up by one row.
int64_t rows_of_chunk(const ConventionalLayer::Options& options, int64_t max_rows, int64_t ranks) {
  return std::min(max_rows * ranks, options.max_num_tokens + ranks);
}

int64_t gather_bytes(const MoeShape& shape, int64_t rows) {
  return 2 * Arena::padded(rows * GatheredRow(shape, DType::kF32).bytes) +
         Arena::matrix_bytes(rows, shape.hidden_size) +
         2 * Arena::matrix_bytes(rows * shape.top_k, 1);
}

}  // namespace

ConventionalLayer::ConventionalLayer(const Options& options)
    : options_(options), shape_(options.shape) {
  CHECK(options_.experts.gate_up.size() == options_.experts.down.size());
  CHECK(options_.max_num_tokens >= 1);
}

int64_t ConventionalLayer::scratch_bytes(int max_rows) const {
  const int64_t ranks = options_.gather != nullptr ? options_.gather->size() : 1;
  const auto num_experts = static_cast<int>(std::ssize(options_.experts.down));
  if (options_.on_gpu) return device_scratch_bytes(options_, num_experts, max_rows, ranks);
  const int64_t rows = rows_of_chunk(options_, max_rows, ranks);
  const int64_t pairs = rows * shape_.top_k;
  return 2 * Arena::matrix_bytes(pairs, shape_.hidden_size) +
         expert_scratch_bytes(pairs, shape_.intermediate_size) + 3 * Arena::matrix_bytes(pairs, 1) +
         Arena::matrix_bytes(num_experts + 1, 1) + 8 * Arena::kAlignment +
         (options_.gather != nullptr ? gather_bytes(shape_, rows) : 0);
}

int64_t ConventionalLayer::device_scratch_bytes(const Options& options, int num_experts,
                                                int64_t max_rows, int64_t ranks) {
  const int64_t rows = rows_of_chunk(options, max_rows, ranks);
  return device_experts_scratch_bytes(options.shape, num_experts, rows) +
         (ranks > 1 ? gather_bytes(options.shape, rows) : 0);
}

void ConventionalLayer::run_own_experts(Stream& stream, Arena& arena, const MoeInput& input,
                                        MatrixView y) const {
  begin(stream, Phase::kDispatch);
  if (stream.is_cuda()) {
    run_experts_on_device(stream, arena,
                          {shape_, options_.first_expert, options_.experts, input, y, profile()});
    return;
  }
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

  begin(stream, Phase::kExperts);
  const MatrixView down = arena.matrix(num_rows, shape_.hidden_size);
  run_experts(stream, arena, options_.experts, offsets, permuted, down);

  begin(stream, Phase::kCombine);
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
  begin(stream, Phase::kDispatch);
  const Arena::Scope scope(arena);
  const int64_t hidden = shape_.hidden_size;
  const DType dtype = input.x.dtype;
  const GatheredRow row(shape_, dtype);
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});

  const std::span<std::byte> own = arena.take<std::byte>(input.x.rows * row.bytes);
  const MatrixView packed = bytes_view(own, row.bytes);
  kernels::copy_matrix(stream, bytes_view(input.x), packed.column_range(0, row.x_bytes));
  kernels::copy_matrix(stream, bytes_view(input.weights, input.x.rows, row.top_k_bytes),
                       packed.column_range(row.x_bytes, row.top_k_bytes));
  kernels::copy_matrix(stream, bytes_view(input.ids, input.x.rows, row.top_k_bytes),
                       packed.column_range(row.x_bytes + row.top_k_bytes, row.top_k_bytes));
  const std::span<std::byte> all = arena.take<std::byte>(total * row.bytes);
  std::vector<int64_t> sizes;
  for (const int count : counts) sizes.push_back(count * row.bytes);
  RETURN_IF_ERROR(meet(stream, Phase::kDispatch));
  RETURN_IF_ERROR(options_.gather->all_gather_v(own, sizes, all));

  const MatrixView gathered_rows = bytes_view(all, row.bytes);
  const std::span<std::byte> weights = arena.take<std::byte>(total * row.top_k_bytes);
  const std::span<std::byte> ids = arena.take<std::byte>(total * row.top_k_bytes);
  kernels::copy_matrix(stream, gathered_rows.column_range(row.x_bytes, row.top_k_bytes),
                       bytes_view(weights, row.top_k_bytes));
  kernels::copy_matrix(stream,
                       gathered_rows.column_range(row.x_bytes + row.top_k_bytes, row.top_k_bytes),
                       bytes_view(ids, row.top_k_bytes));
  MoeInput gathered;
  gathered.x = {all.data(), dtype, total, hidden, row.bytes / dtype_size(dtype)};
  gathered.ids = reinterpret_cast<const int32_t*>(ids.data());
  gathered.weights = reinterpret_cast<const float*>(weights.data());
  const MatrixView sums = arena.matrix(total, hidden, dtype);
  run_own_experts(stream, arena, gathered, sums);
  const std::vector<int64_t> rows(counts.begin(), counts.end());
  RETURN_IF_ERROR(meet(stream, Phase::kCombine));
  return options_.gather->reduce_scatter_rows(sums, rows, y);
}

Status ConventionalLayer::forward(Stream& stream, Arena& arena, const MoeInput& input,
                                  std::span<const int> dp_tokens, MatrixView y) {
  CHECK(y.stride == shape_.hidden_size);
  const bool is_gathered = options_.gather != nullptr;
  CHECK(input.residual.data == nullptr || adds_residual());
  CHECK(!is_gathered || std::ssize(dp_tokens) == options_.gather->size());
  const int64_t tokens =
      is_gathered ? std::accumulate(dp_tokens.begin(), dp_tokens.end(), int64_t{0}) : input.x.rows;
  if (tokens == 0) return Status::ok();
  const int chunks = num_chunks(tokens, options_.max_num_tokens);
  std::vector<int> counts;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const auto [begin, end] = share_of(static_cast<int>(input.x.rows), chunks, chunk);
    const MoeInput rows = input.token_range(begin, end - begin, shape_.top_k);
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
