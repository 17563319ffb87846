// A checkpoint folder: one or several safetensors files, mapped, and reads of parts of its tensors
// as float or bf16. A read touches only the bytes of its part, so a rank pages in no shard and no
// expert but its own. docs/formats.md says which files and dtypes are read.
//
// A Checkpoint is constant once it is open: any number of threads may read from it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/safetensors.h"
#include "base/status.h"
#include "config/model_config.h"
#include "models/matrix_request.h"

namespace wideep::models {

// The scales of the FP8 tensor NAME are the tensor NAME_scale_inv. Despite its name it multiplies.
inline constexpr std::string_view kScaleSuffix = "_scale_inv";

class Checkpoint {
 public:
  struct Tensor {
    const TensorEntry* entry = nullptr;
    int shard = 0;
  };

  // Opens the files that model.safetensors.index.json names, else model.safetensors, else every
  // *.safetensors of the folder. All that is wrong with them is one error, a line each: shards
  // missing or damaged, a tensor that a shard lacks, a tensor in two shards. Costs the headers.
  // `fp8_block` is the shape of the blocks that share a scale.
  static Result<Checkpoint> open(const std::string& folder, Fp8Block fp8_block = {});

  const std::string& folder() const { return folder_; }
  Fp8Block fp8_block() const { return fp8_block_; }
  int num_shards() const { return static_cast<int>(shards_.size()); }
  // Sorted by name.
  std::span<const Tensor> tensors() const { return tensors_; }
  // nullptr where there is none. O(log tensors).
  const Tensor* find(std::string_view name) const;
  // As they are in the file.
  std::span<const std::byte> bytes(const Tensor& tensor) const;
  const std::string& path(const Tensor& tensor) const;

  // Reads the part into out, [request.rows(), request.columns()] row-major. From F32, BF16, F16, or
  // F8_E4M3 times the scale of its block: exact, but for that one product's rounding. Errors name
  // file and tensor.
  Status read(const MatrixRequest& request, std::span<float> out) const;
  // The same rounded to bf16 (bits); bf16 tensors are copied.
  Status read(const MatrixRequest& request, std::span<uint16_t> out) const;
  Status read_vector(const VectorRequest& request, std::span<float> out) const;

  bool is_bf16(const MatrixRequest& request) const;
  // Whether the part is F8_E4M3 and begins with a block that shares a scale.
  bool has_blocks(const MatrixRequest& request) const;
  // Such a part as it is stored: values [rows, columns], and the scales of its blocks [rows of
  // blocks, columns of blocks].
  Status read_blocks(const MatrixRequest& request, std::span<std::byte> values,
                     std::span<float> scales) const;

  // Bytes of the tensor that the request covers, scales not counted.
  Result<int64_t> num_bytes(const MatrixRequest& request) const;
  Result<int64_t> num_bytes(const VectorRequest& request) const;

 private:
  Checkpoint() = default;
  Result<Tensor> tensor_of(const std::string& name) const;
  template <typename T>
  Status read_as(const MatrixRequest& request, std::span<T> out) const;

  std::string folder_;
  Fp8Block fp8_block_;
  std::vector<Safetensors> shards_;
  std::vector<Tensor> tensors_;
};

}  // namespace wideep::models
