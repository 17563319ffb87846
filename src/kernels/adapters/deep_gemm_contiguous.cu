// Tiles of 128 rows, as groups are aligned, or such that fit the rows. Two blocks that share rows
// load them once, which is worth a third; it takes an even number of tiles side by side.
#include "kernels/adapters/deep_gemm_tile.cuh"

namespace wideep::kernels {
namespace {

// Sums from here on are long enough that wide tiles pay (measured: docs/performance.md).
constexpr int kLongSums = 4096;
// And where groups have so many rows, they beat tiles that fit.
constexpr int64_t kManyRows = 2048;

}  // namespace

CUresult multiply_contiguous(Stream& stream, const DeepGemmProduct& p) {
  if (p.dtype == DType::kBF16) {
    using Wide = Tile<128, 192, 4, 2>;
    if (allows_multicast<Wide>(p)) return multiply_bf16<kContiguous, Wide>(stream, p);
    return multiply_bf16<kContiguous, Tile<128, 256, 3>>(stream, p);
  }
  using Wide = Tile<128, 192, 4, 2>;
  using Pair = Tile<128, 128, 5, 2>;
  const bool groups_are_large = p.x.data.rows >= kManyRows * p.groups;
  const bool fits = can_multiply_fitted(p);
  if (p.in >= kLongSums && allows_multicast<Wide>(p) && (groups_are_large || !fits)) {
    return multiply_fp8<kContiguous, Wide>(stream, p);
  }
  if (fits) return multiply_fitted(stream, p);
  if (allows_multicast<Pair>(p)) return multiply_fp8<kContiguous, Pair>(stream, p);
  return multiply_fp8<kContiguous, Tile<128, 128, 5>>(stream, p);
}

}  // namespace wideep::kernels
