// What the ops of one CUDA stream share: scratch, and handles of libraries. One for each stream and
// rank, made at start, so that no op allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "base/status.h"
#include "base/stream.h"
#include "kernels/op_profile.h"

namespace wideep {

namespace kernels {
class Blas;              // kernels/adapters/blas.h
class SideStream;        // kernels/side_stream.h
class TensorMapEncoder;  // kernels/adapters/tensor_map.h

// After a launch: an error of it becomes the stream's, with the op's name.
void check_launch(Stream& stream, const char* op);
}  // namespace kernels

struct OpContextOptions {
  int64_t workspace_bytes = int64_t{64} << 20;
};

// Of the device that is current when it is made. Used by one thread at a time.
class OpContext {
 public:
  static Result<std::unique_ptr<OpContext>> create(const OpContextOptions& options = {});
  ~OpContext();

  int num_sms() const { return num_sms_; }

  // Scratch of one op: the next op on the stream overwrites it. CHECKed against the size, which is
  // planned at start.
  template <typename T>
  std::span<T> workspace(int64_t count, int64_t offset = 0) const {
    return workspace_.span<T>(count, offset);
  }
  int64_t workspace_bytes() const { return workspace_.size(); }

  // A word that is zero between kernels: one that counts by it leaves it so.
  uint32_t* counter() const { return counter_.as<uint32_t>(); }

  // See op_profile.h.
  Status begin_profile(Stream& stream);
  Result<std::vector<kernels::OpTime>> end_profile(Stream& stream);

  bool is_profiled() const { return profile_ != nullptr; }

  // Beside this context's stream, which outlives it; null: none.
  kernels::SideStream* side() const { return side_; }
  void set_side(kernels::SideStream* side) { side_ = side; }

  kernels::Blas& blas() const { return *blas_; }
  const kernels::TensorMapEncoder& tensor_maps() const { return *tensor_maps_; }

 private:
  struct Profile;
  friend void kernels::check_launch(Stream& stream, const char* op);
  OpContext();

  int num_sms_ = 0;
  Buffer workspace_;
  Buffer counter_;                    // zeroed, as all memory is when it is taken
  std::unique_ptr<Profile> profile_;  // while one is made
  kernels::SideStream* side_ = nullptr;
  std::unique_ptr<kernels::Blas> blas_;
  std::unique_ptr<kernels::TensorMapEncoder> tensor_maps_;
};

}  // namespace wideep
