#include "engine/orders.h"

#include <cstring>
#include <type_traits>

namespace wideep::engine {
namespace {

class Writer {
 public:
  template <typename T>
  void value(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* data = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), data, data + sizeof(T));
  }
  template <typename T>
  void list(std::span<const T> values) {
    value(static_cast<int64_t>(values.size()));
    const std::span<const std::byte> data = std::as_bytes(values);
    bytes_.insert(bytes_.end(), data.begin(), data.end());
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Reads zeros once the bytes have ended; done() tells.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T value() {
    T value{};
    read(&value, 1);
    return value;
  }
  int64_t count() {
    const auto count = value<int64_t>();
    // Every element has a byte at least: no count is believed that the rest cannot hold.
    if (count >= 0 && count <= static_cast<int64_t>(bytes_.size())) return count;
    failed_ = true;
    return 0;
  }
  std::vector<int> ints() {
    std::vector<int> values(static_cast<size_t>(count()));
    read(values.data(), values.size());
    return values;
  }
  Status done(const char* what) const {
    if (!failed_ && bytes_.empty()) return Status::ok();
    return Status::unavailable(std::string(what) +
                               " of another rank cannot be read: its message "
                               "has the wrong length");
  }
  bool failed() const { return failed_; }

 private:
  template <typename T>
  void read(T* values, size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count * sizeof(T) > bytes_.size()) {
      failed_ = true;
      bytes_ = {};
      return;
    }
    if (count > 0) std::memcpy(values, bytes_.data(), count * sizeof(T));
    bytes_ = bytes_.subspan(count * sizeof(T));
  }

  std::span<const std::byte> bytes_;
  bool failed_ = false;
};

}  // namespace

std::vector<std::byte> encode(const Orders& orders) {
  Writer writer;
  writer.value(orders.shutdown);
  writer.list(std::span<const RequestId>(orders.cancels));
  writer.value(static_cast<int64_t>(orders.sequences.size()));
  for (const Assignment& assignment : orders.sequences) {
    const SequenceSpec& sequence = assignment.sequence;
    writer.value(assignment.scheduler);
    writer.value(sequence.id);
    writer.list(std::span<const int>(sequence.prompt));
    writer.value(sequence.max_new_tokens);
    writer.list(std::span<const int>(sequence.stop_token_ids));
    writer.value(sequence.sampling);
  }
  return writer.take();
}

Result<Orders> decode_orders(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Orders orders;
  orders.shutdown = reader.value<bool>();
  for (int64_t n = reader.count(); n > 0; --n) orders.cancels.push_back(reader.value<RequestId>());
  for (int64_t n = reader.count(); n > 0 && !reader.failed(); --n) {
    Assignment assignment;
    assignment.scheduler = reader.value<int>();
    assignment.sequence.id = reader.value<RequestId>();
    assignment.sequence.prompt = reader.ints();
    assignment.sequence.max_new_tokens = reader.value<int>();
    assignment.sequence.stop_token_ids = reader.ints();
    assignment.sequence.sampling = reader.value<kernels::SamplingParams>();
    orders.sequences.push_back(std::move(assignment));
  }
  RETURN_IF_ERROR(reader.done("the orders"));
  return orders;
}

std::vector<std::byte> encode(std::span<const TokenOutput> outputs) {
  Writer writer;
  writer.list(outputs);
  return writer.take();
}

Result<std::vector<TokenOutput>> decode_outputs(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  std::vector<TokenOutput> outputs;
  for (int64_t n = reader.count(); n > 0 && !reader.failed(); --n) {
    outputs.push_back(reader.value<TokenOutput>());
  }
  RETURN_IF_ERROR(reader.done("the tokens"));
  return outputs;
}

}  // namespace wideep::engine
