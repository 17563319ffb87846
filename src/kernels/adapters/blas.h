// Dense products through cuBLASLt. The only file that includes it is blas.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/dtype.h"
#include "base/status.h"
#include "base/stream.h"

namespace wideep::kernels {

// y[t, o] = sum over i of x[t, i] * w[o, i], `batch` times; everything is row-major, strides are in
// elements.
struct BlasProduct {
  int64_t tokens = 0;
  int64_t out = 0;
  int64_t in = 0;
  int64_t batch = 1;

  struct Operand {
    const std::byte* data = nullptr;
    int64_t stride = 0;        // from row to row
    int64_t batch_stride = 0;  // from product to product
  };
  // x and w: both kF32 (true fp32, no TF32), kBF16, or kF8E4M3 with scales: of 1 x 128 blocks for
  // x, [ceil(in / 128), tokens], and of 128 x 128 blocks for w.
  DType dtype = DType::kBF16;
  Operand x;
  Operand weight;
  const float* x_scales = nullptr;
  const float* weight_scales = nullptr;

  DType y_dtype = DType::kBF16;  // kF32 or kBF16; kF32 for kF32
  std::byte* y = nullptr;
  int64_t y_stride = 0;
  int64_t y_batch_stride = 0;
};

// One for each OpContext. The first product of a shape asks cuBLASLt which algorithm to take, which
// takes some 50 us and allocates on the host; later ones find it in a table. Every number of tokens
// is a shape of its own: cuBLASLt promises nothing for an algorithm at another size.
class Blas {
 public:
  // What a product may use of a context's workspace, from its beginning.
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  static Result<std::unique_ptr<Blas>> create();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // A failure becomes the stream's, with the product's sizes.
  void multiply(Stream& stream, const BlasProduct& product);
  // Whether cuBLASLt has an algorithm for the product: it knows FP8 in few shapes and layouts only.
  bool can_multiply(const BlasProduct& product);

 private:
  struct State;
  explicit Blas(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace wideep::kernels
