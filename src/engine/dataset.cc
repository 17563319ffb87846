#include "engine/dataset.h"

#include <fmt/format.h>

#include <limits>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "base/text.h"

namespace wideep::engine {
namespace {

// An integer of [low, 2^31); nothing for any other value.
std::optional<int> int_of(const Json& value, int low) {
  if (!value.is_number_integer() && !value.is_number_unsigned()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int>::max())) {
    return std::nullopt;
  }
  const auto number = value.get<int64_t>();
  if (number < low) return std::nullopt;
  return static_cast<int>(number);
}

Status read_ids(const std::string& place, const std::string& key, const Json& value,
                std::vector<int>& ids) {
  if (!value.is_array() || value.empty()) {
    return Status::invalid_input(
        fmt::format("{}: {}: must be a list of at least one token id", place, key));
  }
  for (const Json& item : value) {
    const std::optional<int> id = int_of(item, 0);
    if (!id) {
      return Status::invalid_input(
          fmt::format("{}: {}: {}: a token id is an integer from 0 on", place, key, item.dump()));
    }
    ids.push_back(*id);
  }
  return Status::ok();
}

Status read_key(const std::string& place, const std::string& key, const Json& value,
                DatasetEntry& entry) {
  if (key == "input_ids" || key == "logits") return read_ids(place, key, value, entry.input_ids);
  if (key == "prompt") {
    if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
      return Status::invalid_input(place + ": prompt: must be a text that is not empty");
    }
    entry.prompt = value.get<std::string>();
    return Status::ok();
  }
  if (key != "task_id" && key != "output_tokens") {
    return Status::invalid_input(fmt::format(
        "{}: {}: unknown key, must be task_id, prompt, input_ids or output_tokens", place, key));
  }
  const int low = key == "task_id" ? 0 : 1;
  const std::optional<int> number = int_of(value, low);
  if (!number) {
    return Status::invalid_input(
        fmt::format("{}: {}: {}: must be an integer from {} on", place, key, value.dump(), low));
  }
  if (key == "task_id") {
    entry.task_id = *number;
  } else {
    entry.output_tokens = *number;
  }
  return Status::ok();
}

Result<DatasetEntry> parse_line(std::string_view line, const std::string& place) {
  ASSIGN_OR_RETURN(const Json json, parse_json(line, place));
  if (!json.is_object()) return Status::invalid_input(place + ": must be a JSON object");
  DatasetEntry entry;
  for (const auto& [key, value] : json.items()) {
    RETURN_IF_ERROR(read_key(place, key, value, entry));
  }
  if (entry.prompt.empty() == entry.input_ids.empty()) {
    return Status::invalid_input(place + ": must have one of prompt and input_ids");
  }
  if (entry.output_tokens == 0) {
    return Status::invalid_input(place + ": output_tokens: is missing");
  }
  return entry;
}

}  // namespace

Result<std::vector<DatasetEntry>> parse_dataset(std::string_view text, const std::string& name) {
  std::vector<DatasetEntry> entries;
  int number = 0;
  for (const std::string_view line : split(text, '\n')) {
    ++number;
    if (trim(line).empty()) continue;
    ASSIGN_OR_RETURN(DatasetEntry entry, parse_line(line, fmt::format("{}:{}", name, number)));
    entries.push_back(std::move(entry));
  }
  if (entries.empty()) return Status::invalid_input(name + ": has no request");
  return entries;
}

Result<std::vector<DatasetEntry>> read_dataset(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_dataset(text, path);
}

std::vector<DatasetEntry> synthetic_dataset(const SyntheticLoad& load) {
  std::vector<DatasetEntry> entries(static_cast<size_t>(load.num_requests));
  for (size_t i = 0; i < entries.size(); ++i) {
    Random random(load.seed, {i});
    entries[i].task_id = static_cast<int64_t>(i);
    entries[i].output_tokens = load.output_tokens;
    for (int t = 0; t < load.input_tokens; ++t) {
      entries[i].input_ids.push_back(
          static_cast<int>(random.below(static_cast<uint64_t>(load.vocab_size))));
    }
  }
  return entries;
}

}  // namespace wideep::engine
