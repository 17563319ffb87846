#include "engine/dataset_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/json.h"
#include "base/random.h"

namespace wideep::engine {
namespace {

// One value of a normal distribution (Box and Muller, 1958).
int draw_length(const LengthDistribution& lengths, Random& random) {
  const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
  const double angle = 2 * std::numbers::pi * random.uniform();
  const double value = lengths.mean + lengths.stdev * radius * std::cos(angle);
  return static_cast<int>(std::clamp(std::round(value), 1.0, 1e9));
}

Status add_strings(const Json& list, const std::string& place, std::vector<std::string>& texts) {
  if (!list.is_array()) return Status::invalid_input(place + ": must be a list of strings");
  for (const Json& text : list) {
    if (!text.is_string()) return Status::invalid_input(place + ": must be a list of strings");
    texts.push_back(text.get<std::string>());
  }
  return Status::ok();
}

Result<std::vector<std::string>> json_texts(std::string_view file, const std::string& name) {
  ASSIGN_OR_RETURN(const Json json, parse_json(file, name));
  std::vector<std::string> texts;
  if (json.is_object()) {
    for (const auto& [key, list] : json.items()) {
      RETURN_IF_ERROR(add_strings(list, fmt::format("{}: {}", name, key), texts));
    }
  } else {
    RETURN_IF_ERROR(add_strings(json, name, texts));
  }
  return texts;
}

struct EncodedText {
  std::vector<int> ids;
  size_t num_special = 0;  // ids before the text's own
};

// The texts of a list one after the other, from the first again after the last.
class TextSource {
 public:
  TextSource(const TextList& list, const tokenizer::Tokenizer& tokenizer)
      : list_(list), tokenizer_(tokenizer) {
    CHECK(!list.texts.empty());
  }

  Result<const EncodedText*> next() {
    const size_t text = next_++ % list_.texts.size();
    if (text == encoded_.size()) {
      ASSIGN_OR_RETURN(EncodedText encoded, encode(text));
      encoded_.push_back(std::move(encoded));
    }
    return &encoded_[text];
  }

 private:
  Result<EncodedText> encode(size_t text) const {
    const std::string place = fmt::format("{}: text {}: ", list_.name, text);
    Result<std::vector<int>> ids = tokenizer_.encode(list_.texts[text]);
    if (!ids.is_ok()) return ids.status().prefixed(place);
    if (ids->empty()) return Status::invalid_input(place + "is empty");
    const auto own = tokenizer_.encode(list_.texts[text], {.add_special_tokens = false});
    const size_t num_special = ids->size() - own->size();
    return EncodedText{std::move(ids).value(), num_special};
  }

  const TextList& list_;
  const tokenizer::Tokenizer& tokenizer_;
  std::vector<EncodedText> encoded_;  // of the texts that were taken
  size_t next_ = 0;
};

// The ids of a prompt, in special tokens and then a piece of the text.
std::vector<int> cut_prompt(const DatasetPlan& plan, const EncodedText& text, Random& random) {
  std::vector<int> ids = text.ids;
  const auto length = static_cast<size_t>(draw_length(plan.input, random));
  if (plan.input.mean == 0 || length >= ids.size()) return ids;
  if (plan.random_start) {
    const uint64_t skipped = random.below(ids.size() - std::max(length, text.num_special) + 1);
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(text.num_special);
    ids.erase(begin, begin + static_cast<std::ptrdiff_t>(skipped));
  }
  ids.resize(length);
  return ids;
}

}  // namespace

std::vector<DatasetEntry> random_dataset(const DatasetPlan& plan) {
  CHECK(plan.vocab_size >= 1);
  std::vector<DatasetEntry> entries;
  for (int i = 0; i < plan.num_requests; ++i) {
    Random random(plan.seed, {static_cast<uint64_t>(i)});
    DatasetEntry entry;
    entry.task_id = i;
    entry.input_ids.resize(static_cast<size_t>(draw_length(plan.input, random)));
    entry.output_tokens = draw_length(plan.output, random);
    for (int& id : entry.input_ids) id = static_cast<int>(random.below(plan.vocab_size));
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<std::vector<DatasetEntry>> text_dataset(const DatasetPlan& plan,
                                               std::span<const TextList> lists,
                                               const tokenizer::Tokenizer& tokenizer) {
  CHECK(!lists.empty() && (!plan.random_start || plan.input.mean > 0));
  std::vector<TextSource> sources;
  for (const TextList& list : lists) sources.emplace_back(list, tokenizer);
  std::vector<DatasetEntry> entries;
  for (int i = 0; i < plan.num_requests; ++i) {
    const int64_t num_lists = std::ssize(lists);
    const int64_t list = plan.mix ? i % num_lists : i * num_lists / plan.num_requests;
    ASSIGN_OR_RETURN(const EncodedText* const text, sources[static_cast<size_t>(list)].next());
    Random random(plan.seed, {static_cast<uint64_t>(i)});
    DatasetEntry entry;
    entry.task_id = i;
    entry.input_ids = cut_prompt(plan, *text, random);
    entry.output_tokens = draw_length(plan.output, random);
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<std::vector<std::string>> parse_texts(std::string_view file, const std::string& name) {
  std::vector<std::string> texts;
  const size_t first = file.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && (file[first] == '[' || file[first] == '{')) {
    ASSIGN_OR_RETURN(texts, json_texts(file, name));
  } else {
    while (!file.empty()) {
      const std::string_view line = file.substr(0, file.find('\n'));
      file.remove_prefix(std::min(line.size() + 1, file.size()));
      if (!line.empty()) texts.emplace_back(line);
    }
  }
  if (texts.empty()) return Status::invalid_input(name + ": holds no text");
  return texts;
}

std::string dataset_text(std::span<const DatasetEntry> entries) {
  std::string text;
  for (const DatasetEntry& entry : entries) {
    OrderedJson line;
    line["task_id"] = entry.task_id;
    if (entry.input_ids.empty()) {
      line["prompt"] = entry.prompt;
    } else {
      line["input_ids"] = entry.input_ids;
    }
    line["output_tokens"] = entry.output_tokens;
    text += line.dump() + '\n';
  }
  return text;
}

}  // namespace wideep::engine
