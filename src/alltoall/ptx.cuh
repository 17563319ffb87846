// The instructions that the NVLink kernels need and CUDA C++ has no name for: loads and stores with
// an order and a scope, 128 bits at once. PTX ISA, "Memory Consistency Model".
#pragma once

#include <cstdint>

#include "alltoall/nvlink_types.h"
#include "kernels/bulk_copy.cuh"
#include "kernels/launch.cuh"
#include "kernels/shared_barrier.cuh"

namespace wideep::alltoall::ptx {

__device__ inline Packet packet_of(uint64_t low, uint64_t high) {
  return {
      {static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high)},
      static_cast<uint32_t>(high >> 32)};
}

// One 128-bit access, which PTX does not tear (unlike .v4).
__device__ inline Packet load_relaxed(const Packet* from) {
  uint64_t low;
  uint64_t high;
  asm volatile("{.reg .b128 q; ld.relaxed.sys.global.b128 q, [%2]; mov.b128 {%0, %1}, q;}"
               : "=l"(low), "=l"(high)
               : "l"(from)
               : "memory");
  return packet_of(low, high);
}

__device__ inline Packet load_acquire(const Packet* from) {
  uint64_t low;
  uint64_t high;
  asm volatile("{.reg .b128 q; ld.acquire.sys.global.b128 q, [%2]; mov.b128 {%0, %1}, q;}"
               : "=l"(low), "=l"(high)
               : "l"(from)
               : "memory");
  return packet_of(low, high);
}

__device__ inline void store_relaxed(Packet* to, const Packet& packet) {
  const uint64_t low = packet.word[0] | static_cast<uint64_t>(packet.word[1]) << 32;
  const uint64_t high = packet.word[2] | static_cast<uint64_t>(packet.epoch) << 32;
  asm volatile(
      "{.reg .b128 q; mov.b128 q, {%1, %2}; st.relaxed.sys.global.b128 [%0], q;}" ::"l"(to),
      "l"(low), "l"(high)
      : "memory");
}

__device__ inline uint64_t load_relaxed(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline void store_relaxed(uint64_t* to, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

__device__ inline uint32_t load_acquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline uint32_t load_relaxed(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline void store_relaxed(uint32_t* to, uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ inline void store_release(uint32_t* to, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ inline uint64_t load_acquire_gpu(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline uint32_t load_acquire_gpu(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline void store_release_gpu(uint32_t* to, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ inline void add_release_gpu(uint64_t* to, uint64_t value) {
  asm volatile("red.release.gpu.global.add.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
__device__ inline void add_relaxed_gpu(uint64_t* to, uint64_t value) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

// Orders what this thread wrote, or saw written through a barrier, before its later stores, for
// every GPU and the host.
__device__ inline void fence_sys() {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}

// Nanoseconds of a clock that all multiprocessors share.
__device__ inline uint64_t nanoseconds() {
  uint64_t value;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value));
  return value;
}

using kernels::allow_next_kernel;
using kernels::wait_for_previous_kernel;

using kernels::arrive;
using kernels::init_barrier;
using kernels::shared_address;
using kernels::wait;
// Whether the phase of this parity has ended.
__device__ inline bool test_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}
// Copies a vector from global to shared memory without waiting, past the first cache.
__device__ inline void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Ends a group of this thread's copies, which may be empty.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until all but the last kPending groups of this thread's copies are there.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

using kernels::commit_bulk;
using kernels::fence_global_for_bulk;
using kernels::fence_shared_for_bulk;
using kernels::store_bulk;
using kernels::wait_bulk;
// To shared memory: `barrier`, of one arrival, ends its phase when they are there.
__device__ inline void fetch_bulk(std::byte* to, const std::byte* from, int bytes,
                                  uint64_t* barrier) {
  kernels::expect_bytes(barrier, bytes);
  kernels::fetch_bytes(to, from, bytes, barrier);
}

// Rows pass through once: they are not kept in the first cache.
__device__ inline uint4 load_row(const void* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
// The same of memory that nobody writes while the kernel runs.
__device__ inline uint4 load_input(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
__device__ inline void store_row(void* to, const uint4& v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

// The same of rows that nobody reads soon: they leave the second cache before others.
__device__ inline void stream_row(void* to, const uint4& v) {
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

}  // namespace wideep::alltoall::ptx
