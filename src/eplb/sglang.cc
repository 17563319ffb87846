#include "eplb/sglang.h"

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <utility>
#include <vector>

#include "base/json.h"
#include "eplb/load_rules.h"

namespace wideep::eplb {
namespace {

constexpr std::string_view kKey = "logical_count";

// Sums the counts as they are parsed: a recording of many steps is large, its sum is small.
class CountReader : public nlohmann::json_sax<Json> {
 public:
  explicit CountReader(std::string_view text) : text_(text) {}

  const std::string& problem() const { return problem_; }
  bool found() const { return found_; }
  bool is_placement() const { return is_placement_; }
  int num_experts() const { return static_cast<int>(num_experts_); }
  std::vector<int64_t> take_tokens() { return std::move(tokens_); }

  bool start_object(size_t) override {
    if (in_counts() || next_is_counts_) return fail_value("an object");
    ++object_depth_;
    return true;
  }
  bool end_object() override {
    --object_depth_;
    return true;
  }
  bool key(std::string& key) override {
    if (object_depth_ != 1 || skipped_lists_ > 0) return true;
    is_placement_ |= key == "physical_to_logical_map";
    next_is_counts_ = key == kKey;
    if (next_is_counts_ && std::exchange(found_, true)) return fail("appears twice");
    return true;
  }

  bool start_array(size_t) override {
    if (!in_counts() && !next_is_counts_) {
      ++skipped_lists_;
      return true;
    }
    next_is_counts_ = false;
    if (depth_ == 3 || (dimensions_ > 0 && depth_ == dimensions_)) return fail_value("a list");
    index_[depth_++] = 0;
    return true;
  }

  bool end_array() override {
    if (!in_counts()) {
      --skipped_lists_;
      return true;
    }
    const size_t length = index_[--depth_];
    if (length == 0) return fail("has an empty list");
    if (depth_ + 1 == dimensions_ && !end_row(length)) return false;
    if (depth_ + 2 == dimensions_ && !end_matrix(length)) return false;
    if (depth_ > 0) ++index_[depth_ - 1];
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (!in_counts() && !next_is_counts_) return true;
    if (value > static_cast<uint64_t>(kMaxLayerTokens)) return fail_value(fmt::to_string(value));
    return add(static_cast<int64_t>(value));
  }
  bool number_integer(int64_t value) override { return other(fmt::to_string(value)); }
  bool number_float(double value, const std::string& text) override {
    if (!in_counts() && !next_is_counts_) return true;
    if (value < 0 || value != std::floor(value) || value > static_cast<double>(kMaxLayerTokens)) {
      return fail_value(text);
    }
    return add(static_cast<int64_t>(value));
  }
  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool string(std::string&) override { return other("a string"); }
  bool binary(Json::binary_t&) override { return other("binary data"); }
  bool parse_error(size_t byte, const std::string&, const Json::exception&) override {
    // Python writes NaN and Infinity, which are no JSON: say which count it is.
    if (in_counts() && byte <= text_.size()) return fail_value(word_at(byte));
    problem_ = fmt::format("not valid JSON at byte {}", byte);
    return false;
  }

 private:
  bool in_counts() const { return depth_ > 0; }

  // The word that byte (counted from 1) is in, or the byte's place where it is in none.
  std::string word_at(size_t byte) const {
    const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
    size_t begin = byte - (byte > 0 ? 1 : 0);
    size_t end = begin;
    while (begin > 0 && is_word(text_[begin - 1])) --begin;
    while (end < text_.size() && is_word(text_[end])) ++end;
    if (begin == end || end - begin > 40) return fmt::format("byte {} of the file", byte);
    return std::string(text_.substr(begin, end - begin));
  }

  bool other(const std::string& what) {
    return !in_counts() && !next_is_counts_ ? true : fail_value(what);
  }

  bool add(int64_t count) {
    if (dimensions_ == 0) dimensions_ = depth_;
    if (depth_ != dimensions_ || depth_ < 2) {
      return fail("must be [layers][experts] or [steps][layers][experts]");
    }
    const size_t expert = index_[depth_ - 1]++;
    if (num_experts_ > 0 && expert >= num_experts_) return true;  // end_row has the full length
    if (summing_) {
      const size_t at = index_[depth_ - 2] * num_experts_ + expert;
      if (at < tokens_.size()) tokens_[at] += count;
      if (at < tokens_.size() && tokens_[at] > kMaxLayerTokens)
        return fail_value("a sum over 2^50");
    } else {
      tokens_.push_back(count);
    }
    return true;
  }

  bool end_row(size_t length) {
    if (num_experts_ == 0) num_experts_ = length;
    if (length == num_experts_) return true;
    return fail(fmt::format("layer {} has {} experts, the layers before it {}", index_[depth_ - 1],
                            length, num_experts_));
  }

  bool end_matrix(size_t length) {
    if (num_layers_ == 0) num_layers_ = length;
    summing_ = true;
    if (length == num_layers_) return true;
    return fail(fmt::format("step {} has {} layers, the steps before it {}", index_[0], length,
                            num_layers_));
  }

  bool fail(const std::string& problem) {
    if (problem_.empty()) problem_ = fmt::format("{}: {}", kKey, problem);
    return false;
  }
  // The innermost list is the experts', the one around it the layers'.
  bool fail_value(const std::string& what) {
    if (depth_ < 2) return fail(fmt::format("must be lists of counts, found {}", what));
    return fail(
        fmt::format("layer {}, expert {}: {} is not a count: must be a whole number from 0 "
                    "to 2^50",
                    index_[depth_ - 2], index_[depth_ - 1], what));
  }

  const std::string_view text_;
  std::string problem_;
  bool found_ = false;
  bool is_placement_ = false;
  bool next_is_counts_ = false;
  int object_depth_ = 0;
  int skipped_lists_ = 0;  // open lists of keys that are not read
  size_t depth_ = 0;       // open lists of the counts
  size_t dimensions_ = 0;  // 2 or 3, once a number was seen
  size_t index_[3] = {};   // position in each open list
  bool summing_ = false;   // behind the first step
  size_t num_experts_ = 0;
  size_t num_layers_ = 0;
  std::vector<int64_t> tokens_;
};

}  // namespace

Result<Load> parse_sglang_load(std::string_view text, const std::string& name) {
  CountReader reader(text);
  RETURN_IF_ERROR(stream_json(text, name, reader));
  if (!reader.problem().empty()) {
    return Status::invalid_input(fmt::format("{}: {}", name, reader.problem()));
  }
  if (!reader.found()) {
    return Status::invalid_input(fmt::format(
        "{}: no key \"{}\"{}", name, kKey,
        reader.is_placement() ? ": this is a placement (physical_to_logical_map), not a load"
                              : ""));
  }
  Load load;
  load.num_experts = reader.num_experts();
  load.tokens = reader.take_tokens();
  return finish_load(std::move(load), DenseFront::kDrop, name);
}

}  // namespace wideep::eplb
