// safetensors files: 8 bytes little-endian header length, a JSON header, the tensors' bytes. The
// file is mapped and only its header is read, so opening costs the number of tensors, not their
// size. docs/formats.md has the layout and every rule that is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/status.h"

namespace wideep {

// One entry of the header.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kBool;
  std::vector<int64_t> shape;  // row-major; {}: a scalar
  int64_t begin = 0;           // bytes [begin, end) of the data behind the header
  int64_t end = 0;

  int64_t num_elements() const { return (end - begin) / dtype_size(dtype); }
};

// Elements of a tensor as T: the mapped bytes themselves where they are aligned, else a copy.
template <typename T>
class TensorValues {
 public:
  explicit TensorValues(std::span<const std::byte> bytes) {
    const size_t count = bytes.size() / sizeof(T);
    if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(T) == 0) {
      values_ = {reinterpret_cast<const T*>(bytes.data()), count};
      return;
    }
    copy_.resize(count);
    if (count > 0) std::memcpy(copy_.data(), bytes.data(), bytes.size());
    values_ = copy_;
  }
  TensorValues(const TensorValues&) = delete;
  TensorValues(TensorValues&&) noexcept = default;  // a moved vector keeps its elements' address

  std::span<const T> span() const { return values_; }

 private:
  std::vector<T> copy_;
  std::span<const T> values_;
};

class Safetensors {
 public:
  // Maps the file and checks its header. Errors name the file and the tensor.
  static Result<Safetensors> open(const std::string& path);
  // The same over bytes of the caller's, which must outlive the result; `name` opens the messages.
  static Result<Safetensors> parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& name() const { return name_; }
  // Sorted by name.
  std::span<const TensorEntry> tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // nullptr where there is none. O(log tensors).
  const TensorEntry* find(std::string_view name) const;

  std::span<const std::byte> bytes(const TensorEntry& tensor) const {
    return data_.subspan(static_cast<size_t>(tensor.begin),
                         static_cast<size_t>(tensor.end - tensor.begin));
  }

  // The values of a tensor whose dtype is T's; another dtype is an error that names both.
  template <typename T>
  Result<TensorValues<T>> values(const TensorEntry& tensor) const {
    if (tensor.dtype != DTypeOf<T>::kValue) return dtype_error(tensor, DTypeOf<T>::kValue);
    return TensorValues<T>(bytes(tensor));
  }

 private:
  Safetensors() = default;
  Status dtype_error(const TensorEntry& tensor, DType wanted) const;

  std::string name_;
  MappedFile file_;
  std::span<const std::byte> data_;  // behind the header
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to be written; bytes hold the product of shape times the dtype's size.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kBool;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes a file at once or not at all, in the order and alignment of the format's reference writer:
// larger dtypes first, then by name. The bytes are streamed, not gathered. Names must be distinct.
Status write_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace wideep
