// The copy engine's instructions: bytes, in whole vectors, and boxes of matrices between global and
// shared memory, in the background.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/shared_barrier.cuh"

namespace wideep::kernels {

// Arrives at the barrier, whose phase ends no sooner than so many bytes have been fetched for it.
__device__ inline void expect_bytes(uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ inline void fetch_bytes(void* to, const void* from, int bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
__device__ inline void fetch_box(const CUtensorMap& map, int column, int row, void* to,
                                 uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}

// To where the map says, as part of this thread's group of stores.
__device__ inline void store_box(const CUtensorMap& map, int column, int row, const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
      "r"(shared_address(from)), "r"(column), "r"(row)
      : "memory");
}
__device__ inline void store_bulk(std::byte* to, const std::byte* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
// Ends a group of this thread's stores.
__device__ inline void commit_bulk() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until what all but the last kPending groups store is where it goes: what this thread
// publishes then comes after it.
template <int kPending>
__device__ inline void wait_bulk() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
// Waits until it has been read from shared memory, which may be written again. (As long on Hopper,
// but the first cache stays as it is.)
template <int kPending>
__device__ inline void wait_bulk_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Between this thread's own accesses and those of the copy engine, and of the tensor cores.
__device__ inline void fence_shared_for_bulk() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void fence_global_for_bulk() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

}  // namespace wideep::kernels
