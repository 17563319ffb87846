#include "alltoall/nvlink_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "alltoall/nvlink_regime.h"

namespace wideep::alltoall {
namespace {

DType dtype_of(RowFormat format) {
  switch (format) {
    case RowFormat::kF32:
      return DType::kF32;
    case RowFormat::kBf16:
    case RowFormat::kFp8:
      return DType::kBF16;
    case RowFormat::kFp8Given:
      return DType::kF8E4M3;
    case RowFormat::kBytes:
      break;
  }
  return DType::kU8;
}

DeviceLayout device_layout(RowLayout layout) {
  switch (layout) {
    case RowLayout::kBySlotMasked:
      return DeviceLayout::kBySlotMasked;
    case RowLayout::kBySource:
      return DeviceLayout::kBySource;
    case RowLayout::kBySlot:
      break;
  }
  return DeviceLayout::kBySlot;
}

// Hands out arrays of one allocation, 256 bytes aligned; first with null memory, to count.
class Carver {
 public:
  explicit Carver(std::byte* memory) : memory_(memory) {}
  template <typename T>
  T* take(int64_t count) {
    T* at = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return at;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* memory_;
  int64_t used_ = 0;
};

}  // namespace

NvlinkGroup::NvlinkGroup(const GroupShape& shape, int rank, int num_ranks)
    : shape_(shape),
      rank_(rank),
      num_ranks_(num_ranks),
      active_(static_cast<size_t>(num_ranks), uint8_t{1}) {}

NvlinkGroup::~NvlinkGroup() = default;

Result<int64_t> NvlinkGroup::symmetric_bytes(const GroupShape& shape, int num_ranks) {
  ASSIGN_OR_RETURN(const Shape kernel_shape, make_kernel_shape(shape, num_ranks));
  return make_regions(kernel_shape).total;
}

Result<int64_t> NvlinkGroup::device_bytes(const GroupShape& shape, int num_ranks) {
  ASSIGN_OR_RETURN(const Shape s, make_kernel_shape(shape, num_ranks));
  const bool by_source = shape.layout == RowLayout::kBySource;
  const bool masked = shape.layout == RowLayout::kBySlotMasked;
  const int64_t rows = output_rows(shape, num_ranks) * (masked ? s.slots_per_rank() : 1);
  const int64_t landing = int64_t{s.max_tokens} * num_ranks;
  int64_t of_row = s.result_bytes;  // of the output
  if (!by_source) of_row += s.row_bytes + int64_t{4} * scale_columns(shape);
  int64_t of_landing = sizeof(ReceivedRow) + s.top_k * static_cast<int64_t>(sizeof(Copy));
  if (by_source) of_landing += s.top_k * int64_t{8};
  return make_regions(s).total + rows * of_row + landing * of_landing +
         int64_t{4} * num_ranks * s.num_slots;
}

Result<std::unique_ptr<NvlinkGroup>> NvlinkGroup::create(dist::Communicator& group,
                                                         const GroupShape& shape,
                                                         SymmetricMemory::Kind kind) {
  std::unique_ptr<NvlinkGroup> result(new NvlinkGroup(shape, group.rank(), group.size()));
  RETURN_IF_ERROR(result->allocate(group, kind));
  return result;
}

Status NvlinkGroup::allocate(dist::Communicator& group, SymmetricMemory::Kind kind) {
  ASSIGN_OR_RETURN(view_.shape, make_kernel_shape(shape_, num_ranks_));
  view_.at = make_regions(view_.shape);
  view_.rank = rank_;
  view_.timeout_ns = static_cast<uint64_t>(shape_.timeout_seconds * 1e9);
  ASSIGN_OR_RETURN(memory_, SymmetricMemory::create(group, view_.at.total, kind));
  view_.self = memory_->self();
  view_.early = !memory_->shares_devices();
  std::ranges::copy(memory_->peers(), view_.peers);
  // Each rank takes its memory alone; then all hear whether all could.
  Status own = cuda_status("loading the kernels", load_kernels());
  int device = 0;
  if (own.is_ok()) own = cuda_status("cudaGetDevice", cudaGetDevice(&device));
  if (own.is_ok()) {
    own = cuda_status("cudaDeviceGetAttribute",
                      cudaDeviceGetAttribute(&num_sms_, cudaDevAttrMultiProcessorCount, device));
  }
  max_blocks_ = shape_.num_sms > 0 ? std::clamp(shape_.num_sms, 2, num_sms_) : num_sms_;
  if (own.is_ok()) own = allocate_scratch();
  if (own.is_ok()) own = allocate_outputs();
  if (own.is_ok()) own = cuda_status("cudaDeviceSynchronize", cudaDeviceSynchronize());
  int64_t failed = own.is_ok() ? 0 : 1 + rank_;
  RETURN_IF_ERROR(group.all_reduce_max(std::span(&failed, 1)));
  if (failed == 0 || !own.is_ok()) return own;
  return Status::unavailable(fmt::format("all-to-all: rank {} cannot take its buffers",
                                         group.world_ranks()[static_cast<size_t>(failed - 1)]));
}

Status NvlinkGroup::allocate_scratch() {
  const Shape& s = view_.shape;
  const int64_t tokens = s.max_tokens;
  const int64_t landing = tokens * num_ranks_;
  const auto carve = [&](std::byte* memory) {
    Carver carver(memory);
    view_.state = carver.take<DeviceState>(1);
    view_.active = carver.take<uint8_t>(num_ranks_);
    view_.block_rows = carver.take<uint64_t>(int64_t{max_blocks_} * num_ranks_);
    view_.histograms = carver.take<uint32_t>(int64_t{max_blocks_} * histogram_stride(s.num_slots));
    view_.pair_index = carver.take<int32_t>(tokens * s.top_k);
    view_.own_row = carver.take<int32_t>(tokens);
    view_.source_rows = carver.take<int32_t>(num_ranks_);
    view_.received = carver.take<ReceivedRow>(landing);
    view_.copies = carver.take<Copy>(landing * s.top_k);
    return carver.used();
  };
  ASSIGN_OR_RETURN(scratch_, device_buffer(carve(nullptr)));
  carve(scratch_.data());
  ASSIGN_OR_RETURN(error_, pinned_buffer(sizeof(ErrorRecord)));
  view_.error = error_.as<ErrorRecord>();
  RETURN_IF_CUDA_ERROR(cudaMemcpy(const_cast<uint8_t*>(view_.active), active_.data(),
                                  active_.size(), cudaMemcpyHostToDevice));
  return Status::ok();
}

Status NvlinkGroup::allocate_outputs() {
  const Shape& s = view_.shape;
  const int slots = s.slots_per_rank();
  DispatchArgs& out = outputs_view_;
  out.layout = device_layout(shape_.layout);
  out.row_bytes = s.row_bytes;
  out.scale_columns = scale_columns(shape_);
  out.top_k = s.top_k;
  out.alignment = shape_.row_alignment;
  out.capacity = output_rows(shape_, num_ranks_);
  const bool by_source = shape_.layout == RowLayout::kBySource;
  const bool masked = shape_.layout == RowLayout::kBySlotMasked;
  rows_capacity_ = masked ? out.capacity * slots : out.capacity;
  ASSIGN_OR_RETURN(outputs_, device_buffer(rows_capacity_ * s.result_bytes));
  if (by_source) {
    out.out_rows = view_.self + view_.at.rows;
    out.out_scales = reinterpret_cast<float*>(view_.self + view_.at.scales);
    out.out_scale_stride = s.scale_bytes / 4;
  } else {
    ASSIGN_OR_RETURN(rows_, device_buffer(rows_capacity_ * s.row_bytes));
    ASSIGN_OR_RETURN(scales_, device_buffer(int64_t{4} * rows_capacity_ * out.scale_columns));
    out.out_rows = rows_.data();
    out.out_scales = scales_.as<float>();
    out.out_scale_stride = out.scale_columns;
  }
  const auto carve = [&](std::byte* memory) {
    Carver carver(memory);
    out.slot_counts = carver.take<int32_t>(slots);
    out.slot_offsets = carver.take<int32_t>(slots + 1);
    out.source_counts = carver.take<int32_t>(num_ranks_);
    out.all_counts = carver.take<int32_t>(int64_t{num_ranks_} * s.num_slots);
    const int64_t landing = by_source ? int64_t{num_ranks_} * s.max_tokens * s.top_k : 0;
    out.row_slots = carver.take<int32_t>(landing);
    out.row_weights = carver.take<float>(landing);
    return carver.used();
  };
  ASSIGN_OR_RETURN(counts_, device_buffer(carve(nullptr)));
  carve(counts_.data());
  if (!by_source) out.row_slots = nullptr;
  return Status::ok();
}

Blocks NvlinkGroup::blocks(int64_t most_tokens) const {
  return choose_blocks(view_.shape, most_tokens, num_sms_, shape_.num_sms);
}

int64_t NvlinkGroup::most_tokens() const {
  return routing_.most_tokens > 0 ? routing_.most_tokens : view_.shape.max_tokens;
}

Status NvlinkGroup::plan(Stream&, const Routing& routing) {
  const int64_t most = std::max(routing.num_tokens, routing.most_tokens);
  if (most > view_.shape.max_tokens ||
      (routing.most_tokens > 0 && routing.num_tokens > routing.most_tokens)) {
    return Status::invalid_input(
        fmt::format("all-to-all: {} tokens on rank {}, at most {} announced: the group was made "
                    "for {} of one rank; cut the batch into chunks",
                    routing.num_tokens, rank_, routing.most_tokens, view_.shape.max_tokens));
  }
  if (std::ssize(routing.slots) != routing.num_tokens * shape_.top_k) {
    return Status::invalid_input(fmt::format("all-to-all: {} slots for {} tokens of top-k {}",
                                             routing.slots.size(), routing.num_tokens,
                                             shape_.top_k));
  }
  routing_ = routing;
  planned_ = true;
  dispatched_ = false;
  return Status::ok();
}

Status NvlinkGroup::check_view(const char* what, ConstMatrixView view, int64_t rows, DType dtype,
                               int64_t columns) const {
  const int64_t stride = view.stride * dtype_size(view.dtype);
  const bool aligned = reinterpret_cast<uintptr_t>(view.data) % kVectorBytes == 0 &&
                       (view.rows <= 1 || stride % kVectorBytes == 0);
  if (view.rows >= rows && view.dtype == dtype && view.columns == columns && aligned) {
    return Status::ok();
  }
  return Status::invalid_input(fmt::format(
      "all-to-all: {} is [{}, {}] {}, stride {}: must be [{}, {}] {}, rows at multiples of {} "
      "bytes",
      what, view.rows, view.columns, dtype_name(view.dtype), view.stride, rows, columns,
      dtype_name(dtype), kVectorBytes));
}

Received NvlinkGroup::received() const {
  const Shape& s = view_.shape;
  const DispatchArgs& out = outputs_view_;
  const int slots = s.slots_per_rank();
  Received received;
  const int64_t columns = shape_.format == RowFormat::kBytes ? s.row_bytes : shape_.hidden_size;
  const DType dtype = shape_.format == RowFormat::kFp8 ? DType::kF8E4M3 : dtype_of(shape_.format);
  received.rows = {out.out_rows, dtype, rows_capacity_, columns, columns};
  received.outputs = {outputs_.data(), DType::kBF16, rows_capacity_, shape_.hidden_size,
                      shape_.hidden_size};
  if (out.scale_columns > 0) {
    received.scales = {reinterpret_cast<std::byte*>(out.out_scales), DType::kF32, rows_capacity_,
                       out.scale_columns, out.out_scale_stride};
  }
  const auto size = [](int64_t count) { return static_cast<size_t>(count); };
  received.offsets = {out.slot_offsets, size(slots + 1)};
  received.slot_counts = {out.slot_counts, size(slots)};
  received.source_counts = {out.source_counts, size(num_ranks_)};
  received.rows_of_slots = {out.all_counts, size(int64_t{num_ranks_} * s.num_slots)};
  if (out.row_slots != nullptr) {
    received.row_slots = {out.row_slots, size(rows_capacity_ * s.top_k)};
    received.row_weights = {out.row_weights, size(rows_capacity_ * s.top_k)};
  }
  return received;
}

DispatchArgs NvlinkGroup::dispatch_args(const NvlinkDispatch& in) const {
  DispatchArgs args = outputs_view_;
  args.group = view_;
  args.rows = in.x.data;
  args.row_stride = in.x.stride * dtype_size(in.x.dtype);
  if (shape_.format == RowFormat::kFp8Given) args.scales = in.scales.row<float>(0);
  args.slots = routing_.slots.data();
  args.weights = routing_.weights;
  args.tokens = static_cast<int>(routing_.num_tokens);
  args.push_blocks = blocks(most_tokens()).push;
  args.parts = make_row_parts(args.row_bytes);
  return args;
}

Result<Received> NvlinkGroup::dispatch(Stream& stream, ConstMatrixView x) {
  return dispatch(stream, NvlinkDispatch{.x = x, .scales = {}});
}

Result<Received> NvlinkGroup::dispatch(Stream& stream, const NvlinkDispatch& in) {
  CHECK(planned_);
  RETURN_IF_ERROR(check());
  const int64_t columns =
      shape_.format == RowFormat::kBytes ? view_.shape.row_bytes : shape_.hidden_size;
  RETURN_IF_ERROR(check_view("x", in.x, routing_.num_tokens, dtype_of(shape_.format), columns));
  if (shape_.format == RowFormat::kFp8Given &&
      (in.scales.rows < routing_.num_tokens || in.scales.stride != scale_columns(shape_) ||
       in.scales.dtype != DType::kF32)) {
    return Status::invalid_input(
        fmt::format("all-to-all: scales are [{}, {}]: must be [{}, {}] F32, rows adjacent",
                    in.scales.rows, in.scales.stride, routing_.num_tokens, scale_columns(shape_)));
  }
  const DispatchArgs args = dispatch_args(in);
  const Payload payload = shape_.format == RowFormat::kFp8 ? Payload::kQuantize : Payload::kBytes;
  const Launch launch = {stream_of(stream), blocks(most_tokens()).dispatch};
  const auto launch_it = is_small_batch(view_.shape, most_tokens()) ? launch_dispatch_small
                         : view_.shape.by_source                    ? launch_dispatch_by_source
                                                                    : launch_dispatch_by_slot;
  RETURN_IF_ERROR(cuda_status("dispatch", launch_it(launch, payload, args)));
  dispatched_ = true;
  return received();
}

Status NvlinkGroup::combine(Stream& stream, MatrixView y) {
  return combine(stream, NvlinkCombine{.rows = {}, .residual = {}, .y = y});
}

Status NvlinkGroup::combine(Stream& stream, const NvlinkCombine& in) {
  CHECK(dispatched_);
  RETURN_IF_ERROR(check());
  const int64_t tokens = routing_.num_tokens;
  const ConstMatrixView rows = in.rows.data != nullptr ? in.rows : received().outputs;
  RETURN_IF_ERROR(check_view("y", in.y, tokens, DType::kBF16, shape_.hidden_size));
  RETURN_IF_ERROR(check_view("rows", rows, 0, DType::kBF16, shape_.hidden_size));
  CombineArgs args;
  if (in.residual.data != nullptr) {
    RETURN_IF_ERROR(check_view("residual", in.residual, tokens, DType::kBF16, shape_.hidden_size));
    args.residual = in.residual.data;
    args.residual_stride = in.residual.stride * dtype_size(DType::kBF16);
  }
  args.group = view_;
  args.rows = rows.data;
  args.row_stride = rows.stride * dtype_size(DType::kBF16);
  args.slots = routing_.slots.data();
  args.weights = routing_.weights;
  args.tokens = static_cast<int>(tokens);
  args.top_k = shape_.top_k;
  args.out = in.y.data;
  args.out_stride = in.y.stride * dtype_size(DType::kBF16);
  args.push_blocks = blocks(most_tokens()).combine_push;
  args.parts = make_row_parts(view_.shape.result_bytes);
  const Launch launch = {stream_of(stream), blocks(most_tokens()).combine};
  return cuda_status("combine", is_small_batch(view_.shape, most_tokens())
                                    ? launch_combine_small(launch, args)
                                    : launch_combine(launch, args));
}

Status NvlinkGroup::gather_counts(Stream& stream, std::span<const int32_t> own,
                                  std::span<int32_t> all) {
  RETURN_IF_ERROR(check());
  CHECK(std::ssize(own) == shape_.num_counts && shape_.num_counts > 0);
  CHECK(std::ssize(all) == int64_t{num_ranks_} * shape_.num_counts);
  const int most = shape_.num_sms > 0 ? shape_.num_sms : num_ranks_;
  return cuda_status("gather", launch_gather({stream_of(stream), std::min(num_ranks_, most)},
                                             {view_, own.data(), all.data()}));
}

Status NvlinkGroup::check() const {
  ErrorRecord& record = *error_.as<ErrorRecord>();
  if (std::atomic_ref(record.kind).load(std::memory_order_acquire) == ErrorKind::kNone) {
    return Status::ok();
  }
  return status_of(record, rank_, shape_.timeout_seconds);
}

Status NvlinkGroup::set_rank_active(Stream& stream, int rank, bool active) {
  CHECK(rank >= 0 && rank < num_ranks_);
  if (rank == rank_ && !active) {
    return Status::invalid_input("all-to-all: a rank cannot leave itself out");
  }
  cudaStream_t cuda = stream_of(stream);
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(cuda));
  active_[rank] = active ? 1 : 0;
  *error_.as<ErrorRecord>() = {};
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(const_cast<uint8_t*>(view_.active), active_.data(),
                                       active_.size(), cudaMemcpyHostToDevice, cuda));
  RETURN_IF_ERROR(cuda_status("resume", launch_resume(cuda, view_, ++generation_)));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(cuda));
  dispatched_ = false;
  return check();
}

}  // namespace wideep::alltoall
