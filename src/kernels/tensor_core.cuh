// What products on Hopper's tensor cores (wgmma) need beside the product itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/shared_barrier.cuh"

namespace wideep::kernels {

// Describes an operand in shared memory: rows of 128 bytes, swizzled by 128 bytes, eight of them
// 1024 bytes.
__device__ inline uint64_t swizzled_descriptor(const std::byte* rows) {
  constexpr uint64_t kSwizzled128 = uint64_t{1} << 62;
  return (shared_address(rows) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | kSwizzled128;
}

__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits for all but the last kPending groups; `products` are of the one that is waited for, and not
// to be looked at before.
template <int kPending, int kCount>
__device__ inline void wait_products(float (&products)[kCount]) {
  static_assert(kCount >= 4);
  asm volatile("wgmma.wait_group.sync.aligned %4;"
               : "+f"(products[0]), "+f"(products[1]), "+f"(products[2]), "+f"(products[3])
               : "n"(kPending)
               : "memory");
#pragma unroll
  for (int i = 4; i < kCount; ++i) asm volatile("" : "+f"(products[i])::"memory");
}

}  // namespace wideep::kernels
