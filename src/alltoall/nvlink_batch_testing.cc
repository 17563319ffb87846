#include "alltoall/nvlink_batch_testing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/cuda.h"
#include "base/float_formats.h"

namespace wideep::alltoall {
namespace {

template <typename T>
Status upload_to(const Buffer& to, const std::vector<T>& from, cudaStream_t stream) {
  CHECK(static_cast<int64_t>(from.size() * sizeof(T)) <= to.size());
  if (from.empty()) return Status::ok();
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(to.data(), from.data(), from.size() * sizeof(T),
                                       cudaMemcpyHostToDevice, stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  return Status::ok();
}

}  // namespace

bool is_bf16(RowFormat format) {
  return format == RowFormat::kBf16 || format == RowFormat::kFp8;
}

int64_t NvlinkBatch::input_bytes() const {
  return is_bf16(shape.format) ? int64_t{2} * shape.hidden_size : travel_bytes(shape);
}

std::string NvlinkBatch::describe() const {
  return fmt::format(
      "{} ranks, {} slots, top-k {}, hidden {}, row bytes {}, format {}, layout {}, alignment {}, "
      "combine {}, tokens [{}] of {}, most {}",
      num_ranks(), shape.num_slots, shape.top_k, shape.hidden_size, travel_bytes(shape),
      static_cast<int>(shape.format), static_cast<int>(shape.layout), shape.row_alignment,
      static_cast<int>(shape.combine), fmt::join(num_tokens, " "), shape.max_tokens_of_rank,
      most_tokens);
}

void reroute(Random& random, NvlinkBatch& batch) {
  for (int rank = 0; rank < batch.num_ranks(); ++rank) {
    for (int32_t& slot : batch.slots[rank]) {
      slot = random.below(10) == 0 ? -1 : static_cast<int32_t>(random.below(batch.shape.num_slots));
    }
    for (float& weight : batch.weights[rank]) {
      weight = static_cast<float>(2 * random.uniform() - 1);
    }
  }
}

NvlinkBatch make_nvlink_batch(Random& random, const GroupShape& shape,
                              std::vector<int> num_tokens) {
  NvlinkBatch batch;
  batch.shape = shape;
  batch.num_tokens = std::move(num_tokens);
  batch.active.assign(batch.num_tokens.size(), 1);
  const int columns = scale_columns(shape);
  const int64_t bytes = batch.input_bytes();
  for (const int count : batch.num_tokens) {
    std::vector<std::byte>& rows = batch.rows.emplace_back(static_cast<size_t>(count * bytes));
    if (is_bf16(shape.format)) {
      for (int64_t i = 0; i < count * int64_t{shape.hidden_size}; ++i) {
        const uint16_t bits = float_to_bf16(static_cast<float>(8 * random.uniform() - 4));
        std::memcpy(rows.data() + 2 * i, &bits, sizeof(bits));
      }
    } else {
      for (std::byte& byte : rows) byte = static_cast<std::byte>(random.below(256));
    }
    std::vector<float>& scales = batch.scales.emplace_back(static_cast<size_t>(count) * columns);
    for (float& scale : scales) scale = static_cast<float>(random.uniform());
    batch.slots.emplace_back(static_cast<size_t>(count) * shape.top_k);
    batch.weights.emplace_back(static_cast<size_t>(count) * shape.top_k);
    std::vector<uint16_t>& residual =
        batch.residual.emplace_back(static_cast<size_t>(count) * shape.hidden_size);
    for (uint16_t& value : residual) {
      value = float_to_bf16(static_cast<float>(2 * random.uniform() - 1));
    }
  }
  reroute(random, batch);
  return batch;
}

NvlinkBatch random_nvlink_batch(Random& random, int ranks, int most) {
  constexpr RowFormat kFormats[] = {RowFormat::kBf16, RowFormat::kFp8, RowFormat::kFp8Given,
                                    RowFormat::kBytes};
  constexpr RowLayout kLayouts[] = {RowLayout::kBySlot, RowLayout::kBySlotMasked,
                                    RowLayout::kBySource};
  const auto below = [&](int bound) { return static_cast<int>(random.below(bound)); };
  GroupShape shape;
  shape.transport = Transport::kNvlink;
  shape.format = kFormats[below(4)];
  shape.layout = kLayouts[below(3)];
  shape.num_slots = ranks * (1 + below(12));
  shape.top_k = 1 + below(random.below(4) == 0 ? kMaxTopK : 9);
  // FP8 has groups of 128 columns; the others any vector of 16 bytes.
  shape.hidden_size =
      shape.format == RowFormat::kFp8 ? kScaleGroup * (1 + below(10)) : 16 * (1 + below(70));
  shape.row_bytes = kVectorBytes * (1 + below(60));
  shape.row_alignment = shape.layout == RowLayout::kBySlot && below(2) == 0 ? 128 : 1;
  shape.max_tokens_of_rank = most;
  shape.max_tokens = int64_t{most} * ranks;
  shape.num_sms = sms_for(ranks);
  if (shape.layout != RowLayout::kBySource && below(2) == 0) shape.combine = CombineMode::kExact;
  std::vector<int> num_tokens;
  for (int rank = 0; rank < ranks; ++rank) {
    num_tokens.push_back(below(5) == 0 ? 0 : below(most + 1));
  }
  return make_nvlink_batch(random, shape, num_tokens);
}

Result<NvlinkBuffers> NvlinkBuffers::allocate(const NvlinkBatch& batch, int rank) {
  NvlinkBuffers buffers;
  const int64_t tokens = std::max(1, batch.num_tokens[rank]);
  const int64_t top_k = batch.shape.top_k;
  ASSIGN_OR_RETURN(buffers.rows_, device_buffer(tokens * batch.input_bytes()));
  ASSIGN_OR_RETURN(buffers.scales_, device_buffer(tokens * 4 * (scale_columns(batch.shape) + 1)));
  ASSIGN_OR_RETURN(buffers.slots_, device_buffer(tokens * 4 * top_k));
  ASSIGN_OR_RETURN(buffers.weights_, device_buffer(tokens * 4 * top_k));
  ASSIGN_OR_RETURN(buffers.residual_, device_buffer(tokens * 2 * batch.shape.hidden_size));
  ASSIGN_OR_RETURN(buffers.y_, device_buffer(tokens * 2 * batch.shape.hidden_size));
  return buffers;
}

Status NvlinkBuffers::upload(const NvlinkBatch& batch, int rank, cudaStream_t stream) {
  RETURN_IF_ERROR(upload_to(rows_, batch.rows[rank], stream));
  RETURN_IF_ERROR(upload_to(scales_, batch.scales[rank], stream));
  RETURN_IF_ERROR(upload_to(slots_, batch.slots[rank], stream));
  RETURN_IF_ERROR(upload_to(weights_, batch.weights[rank], stream));
  return upload_to(residual_, batch.residual[rank], stream);
}

Routing NvlinkBuffers::routing(const NvlinkBatch& batch, int rank) const {
  return {.num_tokens = batch.num_tokens[rank],
          .slots = {slots_.as<int32_t>(), batch.slots[rank].size()},
          .weights = weights_.as<float>(),
          .most_tokens = batch.most_tokens};
}

NvlinkDispatch NvlinkBuffers::dispatch(const NvlinkBatch& batch, int rank) const {
  const GroupShape& shape = batch.shape;
  const bool bf16 = is_bf16(shape.format);
  const int64_t columns = bf16 ? shape.hidden_size : travel_bytes(shape);
  const DType dtype = bf16                                   ? DType::kBF16
                      : shape.format == RowFormat::kFp8Given ? DType::kF8E4M3
                                                             : DType::kU8;
  const int64_t scales = scale_columns(shape);
  return {.x = {rows_.data(), dtype, batch.num_tokens[rank], columns, columns},
          .scales = {scales_.data(), DType::kF32, batch.num_tokens[rank], scales, scales}};
}

MatrixView NvlinkBuffers::y(const NvlinkBatch& batch, int rank) const {
  const int64_t columns = batch.shape.hidden_size;
  return {y_.data(), DType::kBF16, batch.num_tokens[rank], columns, columns};
}

ConstMatrixView NvlinkBuffers::residual(const NvlinkBatch& batch, int rank) const {
  const int64_t columns = batch.shape.hidden_size;
  return {residual_.data(), DType::kBF16, batch.num_tokens[rank], columns, columns};
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  return count;
}

int sms_for(int num_ranks) {
  // An H100 or H200 has 132. Small batches put two blocks on one, but blocks of different kernels
  // do not always share it.
  constexpr int kSms = 60;
  const int devices = std::max(1, std::min(device_count(), num_ranks));
  return std::max(1, kSms / ((num_ranks + devices - 1) / devices));
}

}  // namespace wideep::alltoall
