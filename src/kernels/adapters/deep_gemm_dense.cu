// FP8 products of one weight. Few rows are a matter of reading the weight with all multiprocessors;
// many, of full waves of large tiles. All tiles sum in the same order: a row's bits do not depend
// on how many there are.
#include "kernels/adapters/deep_gemm_tile.cuh"

namespace wideep::kernels {
namespace {

// Outputs below which tiles of 64 leave more than half of the multiprocessors idle.
constexpr int kFewOutputs = 4096;

// Time of a product in units of its own: waves of tiles, each as long as a tile's multiplications
// at the rate that tiles of this size reached on an H100 (TFLOP/s, docs/performance.md).
template <typename T>
double estimate(const DeepGemmProduct& p, double rate) {
  const int64_t tiles =
      (p.x.data.rows + T::kBlockM - 1) / T::kBlockM * ((p.out + T::kBlockN - 1) / T::kBlockN);
  const auto waves = static_cast<double>((tiles + kGemmBlocks - 1) / kGemmBlocks);
  return waves * T::kBlockM * T::kBlockN / rate;
}

CUresult multiply_many_rows(Stream& stream, const DeepGemmProduct& p) {
  using Small = Tile<128, 64, 8>;
  using Medium = Tile<128, 128, 5, 2>;
  using Large = Tile<256, 128, 3, 2>;
  const double small = estimate<Small>(p, 690);
  const double medium = estimate<Medium>(p, 1330);
  const double large = estimate<Large>(p, 1430);
  if (small < medium && small < large) return multiply_fp8<kDense, Small>(stream, p);
  if (medium < large) return multiply_fp8<kDense, Medium>(stream, p);
  return multiply_fp8<kDense, Large>(stream, p);
}

}  // namespace

CUresult multiply_dense(Stream& stream, const DeepGemmProduct& p) {
  const int64_t rows = p.x.data.rows;
  const bool is_narrow = p.out < kFewOutputs;
  if (rows <= 16) {
    if (is_narrow) return multiply_fp8<kDense, Tile<16, 32, 20>>(stream, p);
    return multiply_fp8<kDense, Tile<16, 64, 16>>(stream, p);
  }
  if (rows <= 128 && is_narrow) return multiply_fp8<kDense, Tile<64, 32, 14>>(stream, p);
  if (rows <= 64) return multiply_fp8<kDense, Tile<64, 64, 12>>(stream, p);
  if (rows <= 128) return multiply_fp8<kDense, Tile<128, 64, 8>>(stream, p);
  return multiply_many_rows(stream, p);
}

}  // namespace wideep::kernels
