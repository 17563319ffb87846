// --load_format dummy: see make_dummy_weights in weight_source.h.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>

#include "base/float_formats.h"
#include "models/stored_slice.h"
#include "models/tensor_list.h"
#include "models/weight_source.h"

namespace wideep::models {
namespace {

constexpr double kBiasDeviation = 0.02;

// splitmix64's finaliser (Steele, Lea, Flood 2014): a bijection whose every output bit depends on
// every input bit.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// FNV-1a, mixed: neighbouring names must not have neighbouring streams.
uint64_t name_hash(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return mixed(hash);
}

// A row-major matrix of random values: element i has the value of byte i of the tensor's stream, of
// which hash(i / 8) gives eight.
template <typename T>
struct RandomMatrix {
  uint64_t seed = 0;
  int64_t offset = 0;  // elements before the matrix in its tensor
  int64_t columns = 0;
  std::array<T, 256> values;

  void strip(int64_t row, int64_t begin, int64_t end, T* to) const {
    uint64_t at = static_cast<uint64_t>(offset + row * columns + begin);
    const uint64_t stop = static_cast<uint64_t>(offset + row * columns + end);
    while (at < stop) {
      uint64_t bytes = mixed(seed + at / 8) >> (at % 8 * 8);
      if (at % 8 == 0 && stop - at >= 8) {
        for (int i = 0; i < 8; ++i) to[i] = values[(bytes >> (8 * i)) & 255];
        to += 8;
        at += 8;
        continue;
      }
      for (const uint64_t next = std::min(stop, (at / 8 + 1) * 8); at < next; ++at, bytes >>= 8) {
        *to++ = values[bytes & 255];
      }
    }
  }
};

// 256 evenly spaced values around 0 with this standard deviation, rounded to bf16.
template <typename T>
std::array<T, 256> uniform_values(double deviation) {
  std::array<T, 256> values;
  const double step = deviation * std::sqrt(12.0 / (256.0 * 256.0 - 1));
  for (int i = 0; i < 256; ++i) {
    const uint16_t bits = float_to_bf16(static_cast<float>(step * (i - 127.5)));
    if constexpr (std::is_same_v<T, float>) {
      values[i] = bf16_to_float(bits);
    } else {
      values[i] = bits;
    }
  }
  return values;
}

class DummyWeights : public WeightSource {
 public:
  DummyWeights(const ModelConfig& model, ReadProgress progress)
      : WeightSource(std::move(progress)), model_(model), tensors_(tensor_list(model)) {
    std::ranges::sort(tensors_, {}, &TensorSpec::name);
  }

  bool is_bf16(const MatrixRequest&) const override { return true; }
  Result<int64_t> num_bytes(const MatrixRequest& request) const override {
    ASSIGN_OR_RETURN(const TensorSpec* tensor, find(request.name));
    return request.num_elements() * element_bytes(*tensor);
  }
  Result<int64_t> num_bytes(const VectorRequest& request) const override {
    ASSIGN_OR_RETURN(const TensorSpec* tensor, find(request.name));
    return (request.end - request.begin) * element_bytes(*tensor);
  }

 private:
  Status do_read(const MatrixRequest& request, std::span<float> out) const override {
    return read_as(request, out);
  }
  Status do_read(const MatrixRequest& request, std::span<uint16_t> out) const override {
    return read_as(request, out);
  }

  Status do_read_vector(const VectorRequest& request, std::span<float> out) const override {
    ASSIGN_OR_RETURN(const TensorSpec* tensor, find(request.name));
    RETURN_IF_ERROR(check_request(request, tensor->shape, "dummy weights"));
    CHECK_EQ(static_cast<int64_t>(out.size()), request.end - request.begin);
    if (tensor->kind == TensorKind::kNorm) {
      std::ranges::fill(out, 1.0F);
      return Status::ok();
    }
    const RandomMatrix<float> row{name_hash(request.name), 0, tensor->shape[0],
                                  uniform_values<float>(kBiasDeviation)};
    row.strip(0, request.begin, request.end, out.data());
    return Status::ok();
  }

  template <typename T>
  Status read_as(const MatrixRequest& request, std::span<T> out) const {
    ASSIGN_OR_RETURN(const TensorSpec* tensor, find(request.name));
    const auto& shape = tensor->shape;
    RETURN_IF_ERROR(check_request(request, shape, "dummy weights"));
    CHECK_EQ(static_cast<int64_t>(out.size()), request.num_elements());
    // in_features is the second dimension of [out, in] and of [experts, in, out].
    const double deviation = 1 / std::sqrt(static_cast<double>(shape[1]));
    RandomMatrix<T> matrix{name_hash(request.name), 0, shape.back(), uniform_values<T>(deviation)};
    if (request.expert >= 0) matrix.offset = request.expert * shape[1] * shape[2];
    copy_slice(matrix, request, out.data());
    return Status::ok();
  }

  Result<const TensorSpec*> find(const std::string& name) const {
    const auto at = std::ranges::lower_bound(tensors_, name, {}, &TensorSpec::name);
    if (at != tensors_.end() && at->name == name) return &*at;
    return Status::not_found(
        fmt::format("dummy weights: {}: no such tensor in {}", name, model_.architecture));
  }

  // As the model's checkpoint would have it.
  int64_t element_bytes(const TensorSpec& tensor) const {
    if (tensor.may_be_fp8 && model_.fp8_block) return 1;
    return model_.type == ModelType::kFp32 ? 4 : 2;
  }

  const ModelConfig model_;
  std::vector<TensorSpec> tensors_;  // by name
};

}  // namespace

std::unique_ptr<WeightSource> make_dummy_weights(const ModelConfig& model, ReadProgress progress) {
  return std::make_unique<DummyWeights>(model, std::move(progress));
}

}  // namespace wideep::models
