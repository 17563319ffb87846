#include "models/weights.h"

#include <algorithm>
#include <utility>

#include "base/arena.h"
#include "kernels/transfer.h"

namespace wideep::models {
namespace {

// Rows that one job reads and packs: enough to be worth a thread's time, few enough that the
// unpacked copy stays in the cache.
constexpr int kRowsOfJob = 8 * kernels::kPackedRows;

// Rows that go to a GPU at once: of whole 128 x 128 blocks, for FP8.
constexpr int kRowsOfPiece = 128;

// Rows [begin, end) of the parts stacked upon each other, in their order.
std::vector<MatrixRequest> stacked_rows(const std::vector<MatrixRequest>& parts, int64_t begin,
                                        int64_t end) {
  std::vector<MatrixRequest> result;
  int64_t first = 0;  // row of the stack at which the part begins
  for (const MatrixRequest& part : parts) {
    const int64_t from = std::max(begin, first);
    const int64_t to = std::min(end, first + part.rows());
    if (from < to) {
      result.push_back(part);
      result.back().row_begin = part.row_begin + (from - first);
      result.back().row_end = part.row_begin + (to - first);
    }
    first += part.rows();
  }
  return result;
}

template <typename T>
Status read_all(WeightSource& source, const std::vector<MatrixRequest>& requests, T* out) {
  for (const MatrixRequest& request : requests) {
    const std::span<T> to(out, static_cast<size_t>(request.num_elements()));
    RETURN_IF_ERROR(source.read(request, to));
    out += request.num_elements();
  }
  return Status::ok();
}

// Rows [row_begin, ...) of a weight on a device.
struct RowsOfWeight {
  kernels::PackedWeight weight;
  int row_begin = 0;
  std::vector<MatrixRequest> requests;
  int64_t rows = 0;

  std::byte* data() const { return const_cast<std::byte*>(weight.data); }
};

// FP8 that stays as it is stored, its scales behind it.
DevicePiece stored_piece(RowsOfWeight to) {
  const int64_t columns = to.weight.in_features;
  const int64_t num_scales = (columns + kFp8Block - 1) / kFp8Block;
  const int64_t num_values = to.rows * columns;
  const auto scale_bytes = num_scales * static_cast<int64_t>(sizeof(float));
  return {.num_bytes = num_values + scale_bytes,
          .read =
              [request = to.requests.front(), num_values, num_scales](WeightSource& source,
                                                                      std::span<std::byte> out) {
                auto* scales = reinterpret_cast<float*>(out.data() + num_values);
                return source.read_fp8(request, out.first(num_values),
                                       {scales, static_cast<size_t>(num_scales)});
              },
          .store =
              [to, columns, num_values, num_scales, scale_bytes](Stream& stream,
                                                                 const std::byte* uploaded) {
                const int64_t first_scale = to.row_begin / kFp8Block * num_scales;
                const auto scales = const_cast<float*>(to.weight.scales) + first_scale;
                kernels::copy_bytes(stream, {uploaded, static_cast<size_t>(num_values)},
                                    to.data() + to.row_begin * columns);
                kernels::copy_bytes(stream,
                                    {uploaded + num_values, static_cast<size_t>(scale_bytes)},
                                    reinterpret_cast<std::byte*>(scales));
              }};
}

// What is converted on the device, if it is: floats, or bf16 for weights of bf16.
template <typename T>
DevicePiece converted_piece(RowsOfWeight to) {
  const int64_t columns = to.weight.in_features;
  return {.num_bytes = to.rows * columns * static_cast<int64_t>(sizeof(T)),
          .read =
              [requests = to.requests](WeightSource& source, std::span<std::byte> out) {
                return read_all(source, requests, reinterpret_cast<T*>(out.data()));
              },
          .store =
              [to, columns](Stream& stream, const std::byte* uploaded) {
                constexpr DType kDType = sizeof(T) == sizeof(float) ? DType::kF32 : DType::kBF16;
                kernels::store_device_weight_rows(stream,
                                                  {{uploaded, kDType, to.rows, columns, columns},
                                                   to.row_begin,
                                                   to.weight.out_features,
                                                   to.weight.dtype,
                                                   to.data()});
              }};
}

DevicePiece piece_of(const WeightSource& source, RowsOfWeight to) {
  const bool is_stored = to.weight.dtype == DType::kF8E4M3 && to.requests.size() == 1 &&
                         source.has_fp8_blocks(to.requests.front());
  if (is_stored) return stored_piece(std::move(to));
  if (to.weight.dtype == DType::kBF16) return converted_piece<uint16_t>(std::move(to));
  return converted_piece<float>(std::move(to));
}

}  // namespace

int64_t WeightStore::weight_bytes(const kernels::PackedWeight& weight) const {
  return space_ == MemorySpace::kHost
             ? kernels::packed_weight_bytes(weight.out_features, weight.in_features, weight.dtype)
             : kernels::device_weight_bytes(weight.out_features, weight.in_features, weight.dtype);
}

std::span<std::byte> WeightStore::memory_of(const kernels::PackedWeight& weight) const {
  return memory_.span<std::byte>(weight_bytes(weight), weight.data - memory_.data());
}

int64_t WeightStore::reserve(int64_t bytes) {
  const int64_t offset = bytes_;
  bytes_ += Arena::padded(bytes);
  return offset;
}

const kernels::PackedWeight& WeightStore::add_linear(std::vector<MatrixRequest> parts,
                                                     DType dtype) {
  return add_linear_group({std::move(parts)}, dtype).front();
}

const std::vector<kernels::PackedWeight>& WeightStore::add_linear_group(
    std::vector<std::vector<MatrixRequest>> members, DType dtype) {
  LinearGroup group;
  group.members = std::move(members);
  for (const std::vector<MatrixRequest>& parts : group.members) {
    int64_t rows = 0;
    for (const MatrixRequest& part : parts) {
      CHECK(part.columns() == parts.front().columns());
      rows += part.rows();
    }
    group.weights.push_back(
        {nullptr, dtype, static_cast<int>(rows), static_cast<int>(parts.front().columns())});
    CHECK(rows == group.weights.front().out_features);
  }
  if (!group.weights.empty()) {
    group.offset = reserve(weight_bytes(group.weights.front()) * std::ssize(group.weights));
  }
  linears_.push_back(std::move(group));
  return linears_.back().weights;
}

const ConstMatrixView& WeightStore::add_table(const MatrixRequest& request, DType dtype) {
  const int64_t bytes = request.num_elements() * dtype_size(dtype);
  const ConstMatrixView view = {nullptr, dtype, request.rows(), request.columns(),
                                request.columns()};
  tables_.push_back({request, view, reserve(bytes)});
  return tables_.back().view;
}

const std::span<const float>& WeightStore::add_vector(const VectorRequest& request) {
  const int64_t size = request.end - request.begin;
  // The size is known before the place is.
  const std::span<const float> values(static_cast<const float*>(nullptr),
                                      static_cast<size_t>(size));
  vectors_.push_back({request, values, reserve(size * static_cast<int64_t>(sizeof(float)))});
  return vectors_.back().values;
}

void WeightStore::place() {
  for (LinearGroup& group : linears_) {
    int64_t offset = group.offset;
    for (kernels::PackedWeight& weight : group.weights) {
      weight.data = memory_.data() + offset;
      if (space_ == MemorySpace::kDevice) {
        weight = kernels::device_weight(weight.data, weight.out_features, weight.in_features,
                                        weight.dtype);
      }
      offset += weight_bytes(weight);
    }
  }
  for (Table& table : tables_) table.view.data = memory_.data() + table.offset;
  for (Vector& vector : vectors_) {
    vector.values = memory_.span<const float>(std::ssize(vector.values), vector.offset);
  }
}

void WeightStore::add_jobs(const LinearGroup& group, int member, std::vector<Job>& jobs) const {
  const kernels::PackedWeight& weight = group.weights[member];
  std::byte* packed = memory_.data() + group.offset + member * weight_bytes(weight);
  for (int begin = 0; begin < weight.out_features; begin += kRowsOfJob) {
    const int end = std::min(begin + kRowsOfJob, weight.out_features);
    jobs.emplace_back(
        [&group, &weight, member, packed, begin, end](WeightSource& source) -> Status {
          std::vector<float> rows(static_cast<size_t>(end - begin) * weight.in_features);
          RETURN_IF_ERROR(
              read_all(source, stacked_rows(group.members[member], begin, end), rows.data()));
          kernels::pack_weight_rows(
              matrix_view(std::as_const(rows).data(), end - begin, weight.in_features), begin,
              weight.out_features, weight.dtype, packed);
          return Status::ok();
        });
  }
}

std::vector<WeightStore::Job> WeightStore::jobs() {
  std::vector<Job> jobs;
  for (const LinearGroup& group : linears_) {
    for (int member = 0; member < std::ssize(group.weights); ++member) {
      add_jobs(group, member, jobs);
    }
  }
  for (Table& table : tables_) {
    jobs.emplace_back([this, &table](WeightSource& source) -> Status {
      const int64_t count = table.request.num_elements();
      if (table.view.dtype == DType::kF32) {
        return source.read(table.request, memory_.span<float>(count, table.offset));
      }
      return source.read(table.request, memory_.span<uint16_t>(count, table.offset));
    });
  }
  for (Vector& vector : vectors_) {
    jobs.emplace_back([this, &vector](WeightSource& source) {
      return source.read_vector(vector.request,
                                memory_.span<float>(std::ssize(vector.values), vector.offset));
    });
  }
  return jobs;
}

void WeightStore::add_pieces(const WeightSource& source, const LinearGroup& group, int member,
                             std::vector<DevicePiece>& pieces) const {
  const kernels::PackedWeight& weight = group.weights[member];
  for (int begin = 0; begin < weight.out_features; begin += kRowsOfPiece) {
    const int end = std::min(begin + kRowsOfPiece, weight.out_features);
    pieces.push_back(piece_of(
        source, {weight, begin, stacked_rows(group.members[member], begin, end), end - begin}));
  }
}

std::vector<DevicePiece> WeightStore::device_pieces(const WeightSource& source) const {
  std::vector<DevicePiece> pieces;
  for (const LinearGroup& group : linears_) {
    for (int member = 0; member < std::ssize(group.members); ++member) {
      add_pieces(source, group, member, pieces);
    }
  }
  for (const Table& table : tables_) {
    const kernels::PackedWeight weight = {memory_.data() + table.offset, table.view.dtype,
                                          static_cast<int>(table.view.rows),
                                          static_cast<int>(table.view.columns)};
    for (int begin = 0; begin < weight.out_features; begin += kRowsOfPiece) {
      const int end = std::min(begin + kRowsOfPiece, weight.out_features);
      pieces.push_back(piece_of(
          source, {weight, begin, stacked_rows({table.request}, begin, end), end - begin}));
    }
  }
  for (const Vector& vector : vectors_) {
    const int64_t count = std::ssize(vector.values);
    const auto bytes = count * static_cast<int64_t>(sizeof(float));
    pieces.push_back(
        {.num_bytes = bytes,
         .read =
             [&vector, count](WeightSource& from, std::span<std::byte> out) {
               auto* values = reinterpret_cast<float*>(out.data());
               return from.read_vector(vector.request, {values, static_cast<size_t>(count)});
             },
         .store =
             [this, &vector, bytes](Stream& stream, const std::byte* uploaded) {
               kernels::copy_bytes(stream, {uploaded, static_cast<size_t>(bytes)},
                                   memory_.data() + vector.offset);
             }});
  }
  return pieces;
}

Result<int64_t> WeightStore::bytes_to_read(const WeightSource& source) const {
  int64_t bytes = 0;
  for (const LinearGroup& group : linears_) {
    for (const std::vector<MatrixRequest>& parts : group.members) {
      for (const MatrixRequest& part : parts) {
        ASSIGN_OR_RETURN(const int64_t part_bytes, source.num_bytes(part));
        bytes += part_bytes;
      }
    }
  }
  for (const Table& table : tables_) {
    ASSIGN_OR_RETURN(const int64_t table_bytes, source.num_bytes(table.request));
    bytes += table_bytes;
  }
  for (const Vector& vector : vectors_) {
    ASSIGN_OR_RETURN(const int64_t vector_bytes, source.num_bytes(vector.request));
    bytes += vector_bytes;
  }
  return bytes;
}

Status WeightStore::load(Stream& stream, WeightSource& source) {
  ASSIGN_OR_RETURN(memory_, Buffer::allocate(bytes_, space_));
  place();
  if (space_ == MemorySpace::kDevice) return load_pieces(stream, source, device_pieces(source));
  const std::vector<Job> work = jobs();
  std::vector<Status> done(work.size());
  stream.pool().parallel_for(static_cast<int>(work.size()),
                             [&](int i) { done[i] = work[i](source); });
  const auto failed =
      std::find_if(done.begin(), done.end(), [](const Status& status) { return !status.is_ok(); });
  return failed == done.end() ? Status::ok() : *failed;
}

}  // namespace wideep::models
