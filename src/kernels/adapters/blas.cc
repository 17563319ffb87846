// cuBLASLt is column-major: y as [out, tokens] is the transposed weight, [in, out], times x as
// [in, tokens]. So its m is our out, its n our tokens.
#include "kernels/adapters/blas.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/cuda.h"
#include "kernels/op_context.h"

namespace wideep::kernels {
namespace {

// Choices that are kept; beyond, all are forgotten.
constexpr size_t kMostChoices = 16384;

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      CHECK(dtype == DType::kF8E4M3);
      return CUDA_R_8F_E4M3;
  }
}

// Up to 256: more makes no difference to cuBLASLt.
uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer) | 256;
  return uint32_t{1} << std::countr_zero(address);
}

// What a choice depends on.
struct Key {
  std::array<int64_t, 10> sizes;
  std::array<uint32_t, 3> alignments;
  DType dtype;
  DType y_dtype;

  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = static_cast<uint64_t>(key.dtype) * 31 + static_cast<uint64_t>(key.y_dtype);
    const auto mix = [&hash](uint64_t value) {
      hash = (hash ^ value) * 0x9e3779b97f4a7c15U;
      hash ^= hash >> 29;
    };
    for (const int64_t size : key.sizes) mix(static_cast<uint64_t>(size));
    for (const uint32_t alignment : key.alignments) mix(alignment);
    return hash;
  }
};

Key key_of(const BlasProduct& p) {
  return {{p.tokens, p.out, p.in, p.batch, p.x.stride, p.x.batch_stride, p.weight.stride,
           p.weight.batch_stride, p.y_stride, p.y_batch_stride},
          {alignment_of(p.x.data), alignment_of(p.weight.data), alignment_of(p.y)},
          p.dtype,
          p.y_dtype};
}

// The descriptors of a product. cuBLASLt's opaque structs, made in place: nothing is allocated.
class Descriptors {
 public:
  explicit Descriptors(const BlasProduct& p) {
    set(cublasLtMatmulDescInit(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    attribute(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    attribute(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (p.dtype == DType::kF8E4M3) {
      attribute(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
      attribute(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
      attribute(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.weight_scales);
      attribute(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
    }
    layout(weight_, data_type(p.dtype), {p.in, p.out, p.weight.stride, p.weight.batch_stride}, p);
    layout(x_, data_type(p.dtype), {p.in, p.tokens, p.x.stride, p.x.batch_stride}, p);
    layout(y_, data_type(p.y_dtype), {p.out, p.tokens, p.y_stride, p.y_batch_stride}, p);
  }

  cublasStatus_t status() const { return status_; }

  // The best algorithm by cuBLASLt's own estimate.
  cublasStatus_t choose(cublasLtHandle_t handle, const BlasProduct& p,
                        cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasStatus_t status = cublasLtMatmulPreferenceInit(&preference);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
      if (status != CUBLAS_STATUS_SUCCESS) return;
      status = cublasLtMatmulPreferenceSetAttribute(&preference, name, &value, sizeof(value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{Blas::kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.weight.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.x.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.y));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.y));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    status = cublasLtMatmulAlgoGetHeuristic(handle, &operation_, &weight_, &x_, &y_, &y_,
                                            &preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (found == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm = result.algo;
    return result.state;
  }

  cublasStatus_t multiply(cublasLtHandle_t handle, const BlasProduct& p,
                          const cublasLtMatmulAlgo_t& algorithm, Stream& stream) {
    const float one = 1;
    const float zero = 0;
    return cublasLtMatmul(handle, &operation_, &one, p.weight.data, &weight_, p.x.data, &x_, &zero,
                          p.y, &y_, p.y, &y_, &algorithm,
                          stream.context().workspace<std::byte>(Blas::kWorkspaceBytes).data(),
                          Blas::kWorkspaceBytes, stream_of(stream));
  }

 private:
  // Keeps the first failure.
  void set(cublasStatus_t status) {
    if (status_ == CUBLAS_STATUS_SUCCESS) status_ = status;
  }
  template <typename Value>
  void attribute(cublasLtMatmulDescAttributes_t name, const Value& value) {
    set(cublasLtMatmulDescSetAttribute(&operation_, name, &value, sizeof(value)));
  }

  struct Shape {
    int64_t rows;  // of the column-major matrix
    int64_t columns;
    int64_t stride;
    int64_t batch_stride;
  };
  void layout(cublasLtMatrixLayoutOpaque_t& to, cudaDataType_t type, const Shape& shape,
              const BlasProduct& p) {
    const auto rows = static_cast<uint64_t>(shape.rows);
    // A matrix of one column may have any stride; cuBLASLt wants one that fits.
    const int64_t stride = std::max(shape.stride, shape.rows);
    set(cublasLtMatrixLayoutInit(&to, type, rows, static_cast<uint64_t>(shape.columns), stride));
    if (p.batch == 1) return;
    const auto batch = static_cast<int32_t>(p.batch);
    set(cublasLtMatrixLayoutSetAttribute(&to, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                         sizeof(batch)));
    set(cublasLtMatrixLayoutSetAttribute(&to, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &shape.batch_stride, sizeof(shape.batch_stride)));
  }

  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
  cublasLtMatmulDescOpaque_t operation_;
  cublasLtMatrixLayoutOpaque_t weight_;
  cublasLtMatrixLayoutOpaque_t x_;
  cublasLtMatrixLayoutOpaque_t y_;
};

}  // namespace

struct Blas::State {
  cublasLtHandle_t handle = nullptr;
  std::unordered_map<Key, std::optional<cublasLtMatmulAlgo_t>, KeyHash> choices;

  // Empty where cuBLASLt cannot.
  const std::optional<cublasLtMatmulAlgo_t>& choice(const BlasProduct& product) {
    const Key key = key_of(product);
    const auto known = choices.find(key);
    if (known != choices.end()) return known->second;
    if (choices.size() == kMostChoices) choices.clear();
    Descriptors descriptors(product);
    std::optional<cublasLtMatmulAlgo_t> algorithm(std::in_place);
    if (descriptors.status() != CUBLAS_STATUS_SUCCESS ||
        descriptors.choose(handle, product, *algorithm) != CUBLAS_STATUS_SUCCESS) {
      algorithm.reset();
    }
    return choices.emplace(key, algorithm).first->second;
  }

  cublasStatus_t multiply(Stream& stream, const BlasProduct& product) {
    Descriptors descriptors(product);
    if (descriptors.status() != CUBLAS_STATUS_SUCCESS) return descriptors.status();
    const auto& algorithm = choice(product);
    if (!algorithm) return CUBLAS_STATUS_NOT_SUPPORTED;
    return descriptors.multiply(handle, product, *algorithm, stream);
  }
};

Blas::Blas(std::unique_ptr<State> state) : state_(std::move(state)) {}

Blas::~Blas() {
  if (state_->handle != nullptr) cublasLtDestroy(state_->handle);
}

Result<std::unique_ptr<Blas>> Blas::create() {
  std::unique_ptr<Blas> blas(new Blas(std::make_unique<State>()));
  const cublasStatus_t status = cublasLtCreate(&blas->state_->handle);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return Status::unavailable(
        fmt::format("cuBLASLt: cublasLtCreate: {}", cublasLtGetStatusString(status)));
  }
  return blas;
}

bool Blas::can_multiply(const BlasProduct& product) {
  return state_->choice(product).has_value();
}

void Blas::multiply(Stream& stream, const BlasProduct& product) {
  if (product.tokens == 0 || product.out == 0 || product.batch == 0) return;
  const cublasStatus_t status = state_->multiply(stream, product);
  if (status == CUBLAS_STATUS_SUCCESS) return;
  stream.fail(Status::unavailable(fmt::format(
      "cuBLASLt: {} x [{}, {}] times [{}, {}] of {}: {}", product.batch, product.tokens, product.in,
      product.out, product.in, dtype_name(product.dtype), cublasLtGetStatusString(status))));
}

}  // namespace wideep::kernels
