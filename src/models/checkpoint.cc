#include "models/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/float_formats.h"
#include "config/schema.h"
#include "models/checkpoint_index.h"
#include "models/stored_slice.h"

namespace wideep::models {
namespace {

constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kSingleName = "model.safetensors";

// A row-major matrix of a mapped file.
struct StoredMatrix {
  DType dtype = DType::kBF16;
  const std::byte* data = nullptr;
  int64_t columns = 0;
  // F8_E4M3 only: [ceil(rows / block.rows), scale_columns], F32 or BF16.
  Fp8Block block;
  DType scale_dtype = DType::kF32;
  const std::byte* scales = nullptr;
  int64_t scale_columns = 0;

  const std::byte* at(int64_t row, int64_t column) const {
    return data + (row * columns + column) * dtype_size(dtype);
  }

  float scale(int64_t row, int64_t column) const {
    const int64_t index = (row / block.rows) * scale_columns + column / block.columns;
    const std::byte* from = scales + index * dtype_size(scale_dtype);
    float value = 0;
    if (scale_dtype == DType::kF32) {
      std::memcpy(&value, from, sizeof value);
    } else {
      bf16_to_float(from, std::span(&value, 1));
    }
    return value;
  }

  void strip(int64_t row, int64_t begin, int64_t end, float* to) const {
    const std::span<float> out(to, static_cast<size_t>(end - begin));
    switch (dtype) {
      case DType::kF32:
        if (!out.empty()) std::memcpy(to, at(row, begin), out.size_bytes());
        break;
      case DType::kBF16:
        bf16_to_float(at(row, begin), out);
        break;
      case DType::kF16:
        f16_to_float(at(row, begin), out);
        break;
      default:  // F8_E4M3, a piece for each block
        while (begin < end) {
          const int64_t next = std::min(end, (begin / block.columns + 1) * block.columns);
          const auto count = static_cast<size_t>(next - begin);
          e4m3_to_float(at(row, begin), scale(row, begin), std::span(to, count));
          to += count;
          begin = next;
        }
    }
  }

  void strip(int64_t row, int64_t begin, int64_t end, uint16_t* to) const {
    if (dtype == DType::kBF16) {
      const auto bytes = static_cast<size_t>(end - begin) * sizeof *to;
      if (bytes > 0) std::memcpy(to, at(row, begin), bytes);
      return;
    }
    std::array<float, 512> piece;
    while (begin < end) {
      const int64_t next = std::min(end, begin + static_cast<int64_t>(piece.size()));
      const auto count = static_cast<size_t>(next - begin);
      strip(row, begin, next, piece.data());
      float_to_bf16(std::span(piece.data(), count), std::span(to, count));
      to += count;
      begin = next;
    }
  }
};

// Announces a read to the system where most bytes between its first and last are of the part, and
// they are many; narrow parts of wide rows would fetch their neighbours' share.
void announce(const StoredMatrix& matrix, int64_t rows, int64_t row, int64_t begin, int64_t end) {
  constexpr int64_t kWorthACall = 1 << 20;
  if (rows == 0 || begin == end || (end - begin) * 2 < matrix.columns) return;
  const std::byte* first = matrix.at(row, begin);
  const auto size = matrix.at(row + rows - 1, end) - first;
  if (size >= kWorthACall) will_read({first, static_cast<size_t>(size)});
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The files of the folder, and the index where there is one.
struct Listing {
  std::vector<std::string> files;
  std::vector<IndexEntry> index;
  std::string index_path;
};

Status no_shards(const std::string& folder, const std::vector<std::string>& names) {
  const bool has_pickles = std::ranges::any_of(names, [](const std::string& name) {
    return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
  });
  return Status::not_found(fmt::format("{}: no *.safetensors files{}", folder,
                                       has_pickles ? "; pickled weights (.bin, .pt) are not read: "
                                                     "save them as safetensors"
                                                   : ": is it a checkpoint's folder?"));
}

Result<Listing> list_files(const std::string& folder) {
  Listing listing;
  listing.index_path = join_path(folder, kIndexName);
  if (path_exists(listing.index_path)) {
    ASSIGN_OR_RETURN(const std::string json, read_file(listing.index_path));
    ASSIGN_OR_RETURN(listing.index, parse_checkpoint_index(json, listing.index_path));
    std::set<std::string> files;
    for (const IndexEntry& entry : listing.index) files.insert(entry.file);
    listing.files.assign(files.begin(), files.end());
    return listing;
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(folder));
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors")) listing.files.push_back(name);
  }
  if (listing.files.empty()) return no_shards(folder, names);
  if (std::ranges::find(listing.files, kSingleName) != listing.files.end()) {
    listing.files = {std::string(kSingleName)};
  }
  return listing;
}

// Every tensor that the index names must be in the shard that it names.
void check_index(const Listing& listing, const std::map<std::string, const Safetensors*>& shards,
                 Violations& violations) {
  for (const IndexEntry& entry : listing.index) {
    const auto shard = shards.find(entry.file);
    if (shard == shards.end() || shard->second->find(entry.tensor) != nullptr) continue;
    violations.add(
        fmt::format("{}: {}: is not in {}", listing.index_path, entry.tensor, entry.file));
  }
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& folder, Fp8Block fp8_block) {
  CHECK(fp8_block.rows > 0 && fp8_block.columns > 0);
  if (!is_directory(folder)) {
    return Status::not_found(fmt::format("{}: no such folder: must be a checkpoint's", folder));
  }
  ASSIGN_OR_RETURN(const Listing listing, list_files(folder));
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  checkpoint.fp8_block_ = fp8_block;
  Violations violations;
  checkpoint.shards_.reserve(listing.files.size());
  std::map<std::string, const Safetensors*> by_file;
  for (const std::string& file : listing.files) {
    Result<Safetensors> shard = Safetensors::open(join_path(folder, file));
    violations.add(shard.status());
    if (!shard.is_ok()) continue;
    checkpoint.shards_.push_back(std::move(shard).value());
    by_file.emplace(file, &checkpoint.shards_.back());
  }
  check_index(listing, by_file, violations);

  std::vector<Tensor>& tensors = checkpoint.tensors_;
  for (int shard = 0; shard < checkpoint.num_shards(); ++shard) {
    for (const TensorEntry& entry : checkpoint.shards_[shard].tensors()) {
      tensors.push_back({&entry, shard});
    }
  }
  std::ranges::stable_sort(tensors, {},
                           [](const Tensor& t) -> const std::string& { return t.entry->name; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].entry->name != tensors[i - 1].entry->name) continue;
    violations.add(fmt::format("{}: {}: is in {} too", checkpoint.path(tensors[i - 1]),
                               tensors[i].entry->name, checkpoint.path(tensors[i])));
  }
  if (!violations.empty()) return violations.status();
  return checkpoint;
}

const Checkpoint::Tensor* Checkpoint::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(
      tensors_, name, {}, [](const Tensor& t) -> std::string_view { return t.entry->name; });
  return at != tensors_.end() && at->entry->name == name ? &*at : nullptr;
}

std::span<const std::byte> Checkpoint::bytes(const Tensor& tensor) const {
  return shards_[tensor.shard].bytes(*tensor.entry);
}

const std::string& Checkpoint::path(const Tensor& tensor) const {
  return shards_[tensor.shard].name();
}

Result<Checkpoint::Tensor> Checkpoint::tensor_of(const std::string& name) const {
  const Tensor* tensor = find(name);
  if (tensor != nullptr) return *tensor;
  return Status::not_found(fmt::format("{}: {}: no such tensor", folder_, name));
}

namespace {

// The scales' place in the matrix, checked against its shape.
Status add_scales(const Checkpoint& checkpoint, const Checkpoint::Tensor& tensor,
                  StoredMatrix& matrix) {
  const std::string& name = tensor.entry->name;
  const Checkpoint::Tensor* scales = checkpoint.find(name + std::string(kScaleSuffix));
  if (scales == nullptr) {
    return Status::invalid_input(fmt::format("{}: {}: is F8_E4M3, and there is no {}{}",
                                             checkpoint.path(tensor), name, name, kScaleSuffix));
  }
  if (tensor.entry->shape.size() != 2) {
    return Status::invalid_input(
        fmt::format("{}: {}: is F8_E4M3, must be a matrix with a scale for each block",
                    checkpoint.path(tensor), name));
  }
  const Fp8Block block = checkpoint.fp8_block();
  const std::vector<int64_t> shape = {ceil_div(tensor.entry->shape[0], block.rows),
                                      ceil_div(tensor.entry->shape[1], block.columns)};
  const DType dtype = scales->entry->dtype;
  if (scales->entry->shape != shape || (dtype != DType::kF32 && dtype != DType::kBF16)) {
    return Status::invalid_input(fmt::format(
        "{}: {}: is [{}] of {}, must be [{}] of F32 or BF16: a scale for each {} x {} block",
        checkpoint.path(*scales), scales->entry->name, fmt::join(scales->entry->shape, ", "),
        dtype_name(dtype), fmt::join(shape, ", "), block.rows, block.columns));
  }
  matrix.block = block;
  matrix.scale_dtype = dtype;
  matrix.scales = checkpoint.bytes(*scales).data();
  matrix.scale_columns = shape[1];
  return Status::ok();
}

// The last two dimensions of a tensor of a dtype that can be read.
Result<StoredMatrix> stored_matrix(const Checkpoint& checkpoint, const Checkpoint::Tensor& tensor) {
  StoredMatrix matrix;
  matrix.dtype = tensor.entry->dtype;
  matrix.data = checkpoint.bytes(tensor).data();
  matrix.columns = tensor.entry->shape.back();
  switch (matrix.dtype) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      return matrix;
    case DType::kF8E4M3:
      RETURN_IF_ERROR(add_scales(checkpoint, tensor, matrix));
      return matrix;
    default:
      return Status::invalid_input(fmt::format("{}: {}: is {}, must be F32, BF16, F16 or F8_E4M3",
                                               checkpoint.path(tensor), tensor.entry->name,
                                               dtype_name(matrix.dtype)));
  }
}

}  // namespace

template <typename T>
Status Checkpoint::read_as(const MatrixRequest& request, std::span<T> out) const {
  ASSIGN_OR_RETURN(const Tensor tensor, tensor_of(request.name));
  RETURN_IF_ERROR(check_request(request, tensor.entry->shape, path(tensor)));
  CHECK_EQ(static_cast<int64_t>(out.size()), request.num_elements());
  ASSIGN_OR_RETURN(StoredMatrix matrix, stored_matrix(*this, tensor));
  const auto& shape = tensor.entry->shape;
  if (request.expert >= 0) {
    matrix.data += request.expert * shape[1] * shape[2] * dtype_size(matrix.dtype);
  }
  if (request.transposed) {
    announce(matrix, request.columns(), request.column_begin, request.row_begin, request.row_end);
  } else {
    announce(matrix, request.rows(), request.row_begin, request.column_begin, request.column_end);
  }
  copy_slice(matrix, request, out.data());
  return Status::ok();
}

Status Checkpoint::read(const MatrixRequest& request, std::span<float> out) const {
  return read_as(request, out);
}

Status Checkpoint::read(const MatrixRequest& request, std::span<uint16_t> out) const {
  return read_as(request, out);
}

bool Checkpoint::is_bf16(const MatrixRequest& request) const {
  const Tensor* tensor = find(request.name);
  return tensor != nullptr && tensor->entry->dtype == DType::kBF16;
}

bool Checkpoint::has_blocks(const MatrixRequest& request) const {
  const Tensor* tensor = find(request.name);
  return tensor != nullptr && tensor->entry->dtype == DType::kF8E4M3 && request.expert < 0 &&
         !request.transposed && request.row_begin % fp8_block_.rows == 0 &&
         request.column_begin % fp8_block_.columns == 0;
}

Status Checkpoint::read_blocks(const MatrixRequest& request, std::span<std::byte> values,
                               std::span<float> scales) const {
  CHECK(has_blocks(request));
  ASSIGN_OR_RETURN(const Tensor tensor, tensor_of(request.name));
  RETURN_IF_ERROR(check_request(request, tensor.entry->shape, path(tensor)));
  ASSIGN_OR_RETURN(const StoredMatrix matrix, stored_matrix(*this, tensor));
  const int64_t block_columns = ceil_div(request.columns(), fp8_block_.columns);
  CHECK_EQ(std::ssize(values), request.num_elements());
  CHECK_EQ(std::ssize(scales), ceil_div(request.rows(), fp8_block_.rows) * block_columns);
  announce(matrix, request.rows(), request.row_begin, request.column_begin, request.column_end);
  std::byte* to = values.data();
  for (int64_t row = request.row_begin; row < request.row_end; ++row, to += request.columns()) {
    std::copy_n(matrix.at(row, request.column_begin), request.columns(), to);
  }
  for (int64_t i = 0; i < std::ssize(scales); ++i) {
    scales[i] = matrix.scale(request.row_begin + i / block_columns * fp8_block_.rows,
                             request.column_begin + i % block_columns * fp8_block_.columns);
  }
  return Status::ok();
}

Status Checkpoint::read_vector(const VectorRequest& request, std::span<float> out) const {
  ASSIGN_OR_RETURN(const Tensor tensor, tensor_of(request.name));
  RETURN_IF_ERROR(check_request(request, tensor.entry->shape, path(tensor)));
  CHECK_EQ(static_cast<int64_t>(out.size()), request.end - request.begin);
  ASSIGN_OR_RETURN(const StoredMatrix row, stored_matrix(*this, tensor));
  row.strip(0, request.begin, request.end, out.data());
  return Status::ok();
}

Result<int64_t> Checkpoint::num_bytes(const MatrixRequest& request) const {
  ASSIGN_OR_RETURN(const Tensor tensor, tensor_of(request.name));
  return request.num_elements() * dtype_size(tensor.entry->dtype);
}

Result<int64_t> Checkpoint::num_bytes(const VectorRequest& request) const {
  ASSIGN_OR_RETURN(const Tensor tensor, tensor_of(request.name));
  return (request.end - request.begin) * dtype_size(tensor.entry->dtype);
}

}  // namespace wideep::models
