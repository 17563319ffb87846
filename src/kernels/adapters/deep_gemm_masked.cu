// The height of tiles follows the rows that a group has: a tile reads all its rows, used or not,
// and weights are read again for every tile of a group.
#include "kernels/adapters/deep_gemm_tile.cuh"

namespace wideep::kernels {
namespace {

// The height for so many rows on average, of which some groups have twice as many.
int tile_rows(const DeepGemmProduct& p) {
  const int64_t expected = p.expected_rows > 0 ? p.expected_rows : p.max_rows / 2;
  if (expected <= 8) return 16;
  if (expected <= 24) return 32;
  // Tiles of 128 rows must not reach beyond a group's.
  return expected <= 48 || p.max_rows % 128 != 0 ? 64 : 128;
}

CUresult multiply_masked_fp8(Stream& stream, const DeepGemmProduct& p) {
  using Pair = Tile<128, 128, 5, 2>;
  switch (tile_rows(p)) {
    case 16:
      return multiply_fp8<kMasked, Tile<16, 128, 11>>(stream, p);
    case 32:
      return multiply_fp8<kMasked, Tile<32, 128, 10>>(stream, p);
    case 64:
      return multiply_fp8<kMasked, Tile<64, 128, 8>>(stream, p);
    default:
      if (can_multiply_fitted(p)) return multiply_fitted(stream, p);
      if (allows_multicast<Pair>(p)) return multiply_fp8<kMasked, Pair>(stream, p);
      return multiply_fp8<kMasked, Tile<128, 128, 5>>(stream, p);
  }
}

CUresult multiply_masked_bf16(Stream& stream, const DeepGemmProduct& p) {
  using Pair = Tile<128, 128, 6, 2>;
  const int rows = tile_rows(p);
  if (rows == 16) return multiply_bf16<kMasked, Tile<16, 128, 11>>(stream, p);
  if (rows == 128 && allows_multicast<Pair>(p)) return multiply_bf16<kMasked, Pair>(stream, p);
  return multiply_bf16<kMasked, Tile<64, 128, 8>>(stream, p);
}

}  // namespace

CUresult multiply_masked(Stream& stream, const DeepGemmProduct& p) {
  return p.dtype == DType::kBF16 ? multiply_masked_bf16(stream, p) : multiply_masked_fp8(stream, p);
}

}  // namespace wideep::kernels
