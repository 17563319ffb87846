// What must hold for any bytes at all that the readers of this folder are given: the fuzzers call
// these with what they invent (make fuzz), formats_corpus_test.cc with what is in tests/corpus/.
#pragma once

#include <numeric>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/metrics_text.h"
#include "base/npy.h"
#include "base/safetensors.h"

namespace wideep {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Sum of bytes: reads all of them, so that a sanitizer sees a span that is too long.
inline int touch(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0,
                         [](int sum, std::byte b) { return sum ^ static_cast<int>(b); });
}

inline void check_safetensors(std::string_view input) {
  const Result<Safetensors> file = Safetensors::parse(as_bytes(input), "input");
  if (!file.is_ok()) {
    CHECK(!file.status().message().empty());
    return;
  }
  size_t bytes = 0;
  for (const TensorEntry& tensor : file->tensors()) {
    CHECK(file->find(tensor.name) == &tensor);
    CHECK(tensor_bytes(tensor.dtype, tensor.shape) == tensor.end - tensor.begin);
    CHECK(touch(file->bytes(tensor)) >= 0);
    bytes += file->bytes(tensor).size();
    const Result<TensorValues<int64_t>> values = file->values<int64_t>(tensor);
    CHECK(values.is_ok() == (tensor.dtype == DType::kI64));
    if (values.is_ok()) CHECK(touch(std::as_bytes(values->span())) >= 0);
  }
  CHECK_LE(bytes, input.size());
}

inline void check_npy(std::string_view input) {
  const Result<Npy> array = Npy::parse(as_bytes(input), "input");
  if (!array.is_ok()) {
    CHECK(!array.status().message().empty());
    return;
  }
  CHECK(tensor_bytes(array->dtype(), array->shape()) ==
        static_cast<int64_t>(array->bytes().size()));
  CHECK(touch(array->bytes()) >= 0);
}

inline void check_json(std::string_view input) {
  const Result<Json> parsed = parse_json(input, "input");
  if (!parsed.is_ok()) {
    CHECK(!parsed.status().message().empty());
    return;
  }
  const Result<Json> again = parse_json(parsed->dump(), "dump");
  CHECK(again.is_ok() && *again == *parsed);
}

// What was read can be written and read again: the same text.
inline void check_metrics(std::string_view input) {
  const Result<std::vector<MetricFamily>> parsed = parse_metrics(input, "input");
  if (!parsed.is_ok()) {
    CHECK(parsed.status().message().starts_with("input:"));
    return;
  }
  const std::string text = metrics_text(*parsed);
  const Result<std::vector<MetricFamily>> again = parse_metrics(text, "text");
  CHECK(again.is_ok() && metrics_text(*again) == text);
}

// Calls check with the contents of every file of a corpus; returns how many there were.
inline int replay_corpus(const std::string& folder, void (*check)(std::string_view)) {
  const Result<std::vector<std::string>> names = list_directory(folder);
  if (!names.is_ok()) return 0;
  for (const std::string& name : *names) {
    const Result<std::string> input = read_file(join_path(folder, name));
    CHECK(input.is_ok());
    check(*input);
  }
  return static_cast<int>(names->size());
}

}  // namespace wideep
