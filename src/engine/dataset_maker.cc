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
                                               std::span<const std::string> texts,
                                               const tokenizer::Tokenizer& tokenizer) {
  CHECK(!texts.empty());
  std::vector<DatasetEntry> entries;
  for (int i = 0; i < plan.num_requests; ++i) {
    const size_t text = static_cast<size_t>(i) % texts.size();
    Random random(plan.seed, {static_cast<uint64_t>(i)});
    DatasetEntry entry;
    entry.task_id = i;
    Result<std::vector<int>> ids = tokenizer.encode(texts[text], {});
    if (!ids.is_ok() || ids->empty()) {
      return Status::invalid_input(
          fmt::format("text {}: {}", text, ids.is_ok() ? "is empty" : ids.status().message()));
    }
    entry.input_ids = std::move(ids).value();
    const auto length = static_cast<size_t>(draw_length(plan.input, random));
    if (plan.input.mean > 0 && length < entry.input_ids.size()) entry.input_ids.resize(length);
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
