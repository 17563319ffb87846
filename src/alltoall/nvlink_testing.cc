#include "alltoall/nvlink_testing.h"

#include <cuda_fp8.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/float_formats.h"
#include "dist/world.h"

namespace wideep::alltoall {
namespace {

constexpr int kPoison = 0xcd;

// Where a row of the output comes from; source -1: padding.
struct Origin {
  int source = -1;
  int token = 0;
  int slot = 0;  // of all ranks; -1: by source
};

struct Expected {
  std::vector<Origin> rows;
  std::vector<int32_t> counts;   // [slots_per_rank]
  std::vector<int32_t> offsets;  // [slots_per_rank + 1]
  std::vector<int32_t> source_counts;
};

int slots_per_rank(const NvlinkBatch& batch) {
  return batch.shape.num_slots / batch.num_ranks();
}

// The slot of a pair, -1 where its rank is masked.
int slot_of(const NvlinkBatch& batch, int source, int64_t pair) {
  const int slot = batch.slots[source][static_cast<size_t>(pair)];
  if (slot < 0 || batch.active[slot / slots_per_rank(batch)] == 0) return -1;
  return slot;
}

Expected expected_by_slot(const NvlinkBatch& batch, int rank) {
  const int slots = slots_per_rank(batch);
  const bool masked = batch.shape.layout == RowLayout::kBySlotMasked;
  const int64_t capacity = output_rows(batch.shape, batch.num_ranks());
  Expected expected;
  for (int s = 0; s < slots; ++s) {
    expected.offsets.push_back(static_cast<int>(expected.rows.size()));
    const size_t begin = expected.rows.size();
    for (int source = 0; source < batch.num_ranks(); ++source) {
      if (batch.active[source] == 0) continue;
      for (int64_t pair = 0; pair < std::ssize(batch.slots[source]); ++pair) {
        if (slot_of(batch, source, pair) != rank * slots + s) continue;
        expected.rows.push_back(
            {source, static_cast<int>(pair / batch.shape.top_k), rank * slots + s});
      }
    }
    expected.counts.push_back(static_cast<int32_t>(expected.rows.size() - begin));
    const auto alignment = static_cast<size_t>(batch.shape.row_alignment);
    expected.rows.resize(masked ? (s + 1) * capacity
                                : (expected.rows.size() + alignment - 1) / alignment * alignment);
  }
  expected.offsets.push_back(static_cast<int>(expected.rows.size()));
  return expected;
}

Expected expected_by_source(const NvlinkBatch& batch, int rank) {
  Expected expected = expected_by_slot(batch, rank);
  const int slots = slots_per_rank(batch);
  expected.rows.assign(static_cast<size_t>(batch.num_ranks() * batch.shape.max_tokens_of_rank),
                       Origin{});
  for (int source = 0; source < batch.num_ranks(); ++source) {
    int row = 0;
    for (int token = 0; token < batch.num_tokens[source]; ++token) {
      bool comes = false;
      for (int k = 0; k < batch.shape.top_k; ++k) {
        const int slot = slot_of(batch, source, int64_t{token} * batch.shape.top_k + k);
        comes = comes || (slot >= 0 && slot / slots == rank);
      }
      if (!comes || batch.active[source] == 0) continue;
      expected.rows[source * batch.shape.max_tokens_of_rank + row++] = {source, token, -1};
    }
    expected.source_counts.push_back(row);
  }
  return expected;
}

Expected expected_of(const NvlinkBatch& batch, int rank) {
  Expected by_source = expected_by_source(batch, rank);
  if (batch.shape.layout == RowLayout::kBySource) return by_source;
  Expected by_slot = expected_by_slot(batch, rank);
  by_slot.source_counts = by_source.source_counts;
  return by_slot;
}

// A row as it travels, and its scales.
struct TravellingRow {
  std::vector<std::byte> row;
  std::vector<float> scales;
};

TravellingRow travelling(const NvlinkBatch& batch, const Origin& origin) {
  const int64_t bytes = batch.input_bytes();
  const std::byte* from = batch.rows[origin.source].data() + origin.token * bytes;
  const int columns = scale_columns(batch.shape);
  if (batch.shape.format != RowFormat::kFp8) {
    TravellingRow result{{from, from + bytes}, {}};
    if (batch.shape.format == RowFormat::kFp8Given) {
      const float* scales = batch.scales[origin.source].data() + int64_t{origin.token} * columns;
      result.scales.assign(scales, scales + columns);
    }
    return result;
  }
  const auto* values = reinterpret_cast<const uint16_t*>(from);
  TravellingRow result;
  for (int group = 0; group < columns; ++group) {
    float largest = 0;
    for (int i = 0; i < kScaleGroup; ++i) {
      largest = std::max(largest, std::abs(bf16_to_float(values[group * kScaleGroup + i])));
    }
    result.scales.push_back(largest == 0 ? 1.0F : largest / 448.0F);
    const float inverse = largest == 0 ? 1.0F : 448.0F / largest;
    for (int i = 0; i < kScaleGroup; ++i) {
      const float value = bf16_to_float(values[group * kScaleGroup + i]) * inverse;
      result.row.push_back(
          static_cast<std::byte>(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3)));
    }
  }
  return result;
}

// What the "expert" of a row's slot makes of it.
uint16_t output_of(const NvlinkBatch& batch, const Origin& origin, int column) {
  const int64_t bytes = batch.input_bytes();
  const std::byte* row = batch.rows[origin.source].data() + origin.token * bytes;
  float value = 0;
  if (is_bf16(batch.shape.format)) {
    value = bf16_to_float(reinterpret_cast<const uint16_t*>(row)[column]);
  } else {
    value = static_cast<float>(static_cast<int>(row[column % bytes]) - 128) / 64;
  }
  return float_to_bf16(value * (0.25F + static_cast<float>((origin.slot + 1) % 7)));
}

template <typename T>
Result<std::vector<T>> download(const void* from, int64_t count, cudaStream_t stream) {
  std::vector<T> result(static_cast<size_t>(count));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(result.data(), from, result.size() * sizeof(T),
                                       cudaMemcpyDeviceToHost, stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  return result;
}

Status expect_counts(const char* what, std::span<const int32_t> device,
                     std::span<const int32_t> expected, cudaStream_t stream) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> seen,
                   download<int32_t>(device.data(), std::ssize(device), stream));
  if (std::ranges::equal(seen, expected)) return Status::ok();
  for (size_t i = 0; i < seen.size(); ++i) {
    if (i >= expected.size() || seen[i] != expected[i]) {
      return Status::invalid_input(fmt::format("{}[{}] is {}, not {}", what, i, seen[i],
                                               i < expected.size() ? expected[i] : -1));
    }
  }
  return Status::invalid_input(fmt::format("{}: other size", what));
}

Status check_counts(const NvlinkBatch& batch, const Expected& expected, const Received& received,
                    cudaStream_t stream) {
  RETURN_IF_ERROR(expect_counts("slot_counts", received.slot_counts, expected.counts, stream));
  if (batch.shape.layout != RowLayout::kBySource) {
    RETURN_IF_ERROR(expect_counts("offsets", received.offsets, expected.offsets, stream));
  }
  RETURN_IF_ERROR(
      expect_counts("source_counts", received.source_counts, expected.source_counts, stream));
  std::vector<int32_t> all(static_cast<size_t>(batch.num_ranks()) * batch.shape.num_slots, 0);
  for (int source = 0; source < batch.num_ranks(); ++source) {
    if (batch.active[source] == 0) continue;
    for (int64_t pair = 0; pair < std::ssize(batch.slots[source]); ++pair) {
      const int slot = slot_of(batch, source, pair);
      if (slot >= 0) ++all[source * batch.shape.num_slots + slot];
    }
  }
  return expect_counts("rows_of_slots", received.rows_of_slots, all, stream);
}

Status check_rows(const NvlinkBatch& batch, const Expected& expected, const Received& received,
                  cudaStream_t stream) {
  const int64_t bytes = received.rows.columns * dtype_size(received.rows.dtype);
  const int64_t columns = received.scales.columns;
  ASSIGN_OR_RETURN(const std::vector<std::byte> rows,
                   download<std::byte>(received.rows.data, received.rows.rows * bytes, stream));
  std::vector<float> scales;
  if (columns > 0) {
    ASSIGN_OR_RETURN(
        scales, download<float>(received.scales.data, received.scales.rows * received.scales.stride,
                                stream));
  }
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    const Origin& origin = expected.rows[r];
    if (origin.source < 0) continue;
    const TravellingRow want = travelling(batch, origin);
    const std::byte* row = rows.data() + static_cast<int64_t>(r) * bytes;
    const auto wrong = std::mismatch(want.row.begin(), want.row.end(), row).first;
    if (wrong != want.row.end()) {
      return Status::invalid_input(
          fmt::format("row {} (source {}, token {}, slot {}) differs at byte {}", r, origin.source,
                      origin.token, origin.slot, wrong - want.row.begin()));
    }
    for (int64_t c = 0; c < columns; ++c) {
      if (scales[static_cast<int64_t>(r) * received.scales.stride + c] != want.scales[c]) {
        return Status::invalid_input(fmt::format("scale {} of row {} differs", c, r));
      }
    }
  }
  return Status::ok();
}

// By source: which slots of this rank each row goes to, and with what weights.
Status check_row_slots(const NvlinkBatch& batch, int rank, const Expected& expected,
                       const Received& received, cudaStream_t stream) {
  const int top_k = batch.shape.top_k;
  const int slots = slots_per_rank(batch);
  ASSIGN_OR_RETURN(
      const std::vector<int32_t> seen,
      download<int32_t>(received.row_slots.data(), std::ssize(received.row_slots), stream));
  ASSIGN_OR_RETURN(
      const std::vector<float> weights,
      download<float>(received.row_weights.data(), std::ssize(received.row_weights), stream));
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    const Origin& origin = expected.rows[r];
    if (origin.source < 0) continue;
    size_t place = r * top_k;
    for (int k = 0; k < top_k; ++k) {
      const int64_t pair = int64_t{origin.token} * top_k + k;
      const int slot = slot_of(batch, origin.source, pair);
      if (slot < 0 || slot / slots != rank) continue;
      if (seen[place] != slot % slots || weights[place] != batch.weights[origin.source][pair]) {
        return Status::invalid_input(fmt::format("slots of row {} differ", r));
      }
      ++place;
    }
    if (place < (r + 1) * top_k && seen[place] != -1) {
      return Status::invalid_input(fmt::format("row {} has more slots", r));
    }
  }
  return Status::ok();
}

// The row itself.
uint16_t input_of(const NvlinkBatch& batch, const Origin& origin, int column) {
  const std::byte* row = batch.rows[origin.source].data() + origin.token * batch.input_bytes();
  return reinterpret_cast<const uint16_t*>(row)[column];
}

using OutputOf = uint16_t (*)(const NvlinkBatch&, const Origin&, int column);

// One element of y before the residual, in float and in the promised order.
float expected_sum(const NvlinkBatch& batch, int rank, int token, int column, OutputOf output) {
  const int slots = slots_per_rank(batch);
  const bool exact = batch.shape.combine == CombineMode::kExact;
  const bool by_source = batch.shape.layout == RowLayout::kBySource;
  float sum = 0;
  for (int r = 0; r < batch.num_ranks(); ++r) {
    float part = 0;
    bool any = false;
    for (int k = 0; k < batch.shape.top_k; ++k) {
      const int64_t pair = int64_t{token} * batch.shape.top_k + k;
      const int slot = slot_of(batch, rank, pair);
      if (slot < 0 || (exact ? r != 0 : slot / slots != r)) continue;
      if (by_source && any) continue;
      any = true;
      const float weight = by_source ? 1.0F : batch.weights[rank][pair];
      part += weight * bf16_to_float(output(batch, {rank, token, by_source ? -1 : slot}, column));
    }
    if (any) sum += exact ? part : bf16_to_float(float_to_bf16(part));
  }
  return sum;
}

}  // namespace

Status finish_stream(cudaStream_t stream, const NvlinkGroup& group) {
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  return group.check();
}

Status check_dispatch(const NvlinkBatch& batch, NvlinkRank& in, const NvlinkBuffers& buffers) {
  auto* const cuda = in.cuda();
  const int rank = in.rank();
  RETURN_IF_ERROR(in.group.plan(in.stream, buffers.routing(batch, rank)));
  Received received;
  RETURN_IF_ERROR(in.start([&]() -> Status {
    ASSIGN_OR_RETURN(received, in.group.dispatch(in.stream, buffers.dispatch(batch, rank)));
    return Status::ok();
  }));
  RETURN_IF_ERROR(finish_stream(cuda, in.group));
  const Expected expected = expected_of(batch, rank);
  RETURN_IF_ERROR(check_counts(batch, expected, received, cuda));
  RETURN_IF_ERROR(check_rows(batch, expected, received, cuda));
  if (batch.shape.layout == RowLayout::kBySource) {
    RETURN_IF_ERROR(check_row_slots(batch, rank, expected, received, cuda));
  }
  // Poison for the next dispatch's rows; not by source, where peers may write already.
  if (batch.shape.layout != RowLayout::kBySource) {
    const int64_t bytes =
        received.rows.rows * received.rows.columns * dtype_size(received.rows.dtype);
    RETURN_IF_CUDA_ERROR(cudaMemsetAsync(const_cast<std::byte*>(received.rows.data), kPoison,
                                         static_cast<size_t>(bytes), cuda));
  }
  const int64_t hidden = batch.shape.hidden_size;
  std::vector<uint16_t> outputs(static_cast<size_t>(received.outputs.rows * hidden));
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    if (expected.rows[r].source < 0) continue;
    for (int c = 0; c < hidden; ++c) {
      outputs[r * hidden + c] = output_of(batch, expected.rows[r], c);
    }
  }
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(received.outputs.data, outputs.data(),
                                       outputs.size() * sizeof(uint16_t), cudaMemcpyHostToDevice,
                                       cuda));
  return finish_stream(cuda, in.group);
}

Status check_combine(const NvlinkBatch& batch, NvlinkRank& in, const NvlinkBuffers& buffers) {
  auto* const cuda = in.cuda();
  const int rank = in.rank();
  const int64_t hidden = batch.shape.hidden_size;
  const MatrixView y = buffers.y(batch, rank);
  for (const bool with_residual : {false, true}) {
    const ConstMatrixView residual =
        with_residual ? buffers.residual(batch, rank) : ConstMatrixView{};
    RETURN_IF_CUDA_ERROR(
        cudaMemsetAsync(y.data, kPoison, static_cast<size_t>(y.rows * hidden * 2), cuda));
    RETURN_IF_ERROR(in.start(
        [&] { return in.group.combine(in.stream, {.rows = {}, .residual = residual, .y = y}); }));
    RETURN_IF_ERROR(finish_stream(cuda, in.group));
    ASSIGN_OR_RETURN(const std::vector<uint16_t> seen,
                     download<uint16_t>(y.data, y.rows * hidden, cuda));
    for (int token = 0; token < batch.num_tokens[rank]; ++token) {
      for (int c = 0; c < hidden; ++c) {
        float sum = expected_sum(batch, rank, token, c, output_of);
        if (with_residual) sum += bf16_to_float(batch.residual[rank][token * hidden + c]);
        const uint16_t want = float_to_bf16(sum);
        const uint16_t got = seen[static_cast<size_t>(token * hidden + c)];
        if (got != want) {
          return Status::invalid_input(fmt::format("y[{}, {}] is {}, not {}", token, c,
                                                   bf16_to_float(got), bf16_to_float(want)));
        }
      }
    }
  }
  return Status::ok();
}

Status check_identity(const NvlinkBatch& batch, int rank, std::span<const uint16_t> y) {
  const int hidden = batch.shape.hidden_size;
  for (int token = 0; token < batch.num_tokens[rank]; ++token) {
    for (int c = 0; c < hidden; ++c) {
      const uint16_t want = float_to_bf16(expected_sum(batch, rank, token, c, input_of));
      const uint16_t got = y[static_cast<size_t>(token) * hidden + c];
      if (got != want) {
        return Status::invalid_input(fmt::format("y[{}, {}] is {}, not {}", token, c,
                                                 bf16_to_float(got), bf16_to_float(want)));
      }
    }
  }
  return Status::ok();
}

Result<NvlinkBuffers> make_buffers(const NvlinkBatch& batch, NvlinkRank& rank) {
  ASSIGN_OR_RETURN(NvlinkBuffers buffers, NvlinkBuffers::allocate(batch, rank.rank()));
  RETURN_IF_ERROR(buffers.upload(batch, rank.rank(), rank.cuda()));
  RETURN_IF_ERROR(rank.ranks.barrier());
  return buffers;
}

Status check_round(const NvlinkBatch& batch, NvlinkRank& rank, const NvlinkBuffers& buffers) {
  RETURN_IF_ERROR(check_dispatch(batch, rank, buffers));
  return check_combine(batch, rank, buffers);
}

Status check_rounds(const NvlinkBatch& batch, NvlinkRank rank) {
  rank.in_step = true;
  ASSIGN_OR_RETURN(const NvlinkBuffers buffers, make_buffers(batch, rank));
  RETURN_IF_ERROR(check_round(batch, rank, buffers));
  RETURN_IF_ERROR(check_round(batch, rank, buffers));
  return rank.ranks.barrier();
}

Status run_nvlink_ranks(int num_ranks, const GroupShape& shape,
                        const std::function<Status(NvlinkRank&)>& body) {
  ASSIGN_OR_RETURN(dist::World world, dist::World::local(num_ranks));
  ThreadPool pool(1);
  const int devices = device_count();
  return world.run([&](dist::Communicator& ranks) -> Status {
    RETURN_IF_CUDA_ERROR(cudaSetDevice(ranks.rank() % devices));
    cudaStream_t cuda = nullptr;
    RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&cuda, cudaStreamNonBlocking));
    Status status;
    {
      Stream stream = Stream::of_cuda(pool, cuda);
      Result<std::unique_ptr<NvlinkGroup>> group = NvlinkGroup::create(ranks, shape);
      status = group.status();
      if (group.is_ok()) {
        NvlinkRank rank = {ranks, stream, *group.value()};
        status = body(rank);
      }
    }
    cudaStreamDestroy(cuda);
    return status;
  });
}

}  // namespace wideep::alltoall
