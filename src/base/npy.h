// npy files (NumPy's format, versions 1 to 3): one array in C order, mapped, not copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/status.h"

namespace wideep {

class Npy {
 public:
  // Maps the file and checks that its header fits its size. Little-endian integers and floats of 1
  // to 8 bytes and booleans are read; Fortran order, big-endian, complex, strings, objects and
  // records are errors that say so.
  static Result<Npy> open(const std::string& path);
  // The same over bytes of the caller's, which must outlive the result; `name` opens the messages.
  static Result<Npy> parse(std::span<const std::byte> bytes, const std::string& name);

  DType dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  // The elements, row-major, at an address that is a multiple of 8 only if the file's header is.
  std::span<const std::byte> bytes() const { return data_; }

 private:
  Npy() = default;

  MappedFile file_;
  std::span<const std::byte> data_;
  DType dtype_ = DType::kBool;
  std::vector<int64_t> shape_;
};

// Writes version 1, header padded to a multiple of 64 as NumPy does. bytes: shape x dtype. F8, BF16
// have no NumPy name and may not be asked for.
Status write_npy(const std::string& path, DType dtype, const std::vector<int64_t>& shape,
                 std::span<const std::byte> bytes);

}  // namespace wideep
