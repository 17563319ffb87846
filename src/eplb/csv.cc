#include "eplb/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "base/text.h"
#include "eplb/load_rules.h"

namespace wideep::eplb {
namespace {

struct Line {
  int number = 0;  // from 1
  std::vector<std::string_view> fields;
};

// Splits a text into its lines that are not blank, trimmed fields. One line in memory at a time.
class LineReader {
 public:
  explicit LineReader(std::string_view text) : rest_(text) {
    if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);  // byte order mark
  }

  bool next(Line& line) {
    while (!rest_.empty()) {
      const size_t end = std::min(rest_.find('\n'), rest_.size());
      const std::string_view text = trim(rest_.substr(0, end));
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++number_;
      if (text.empty()) continue;
      line.number = number_;
      line.fields = split(text, ',');
      for (std::string_view& field : line.fields) field = trim(field);
      return true;
    }
    return false;
  }

 private:
  std::string_view rest_;
  int number_ = 0;
};

// A whole number from 0 to 2^50, also as 12.0.
std::optional<int64_t> parse_count(std::string_view text) {
  if (const std::optional<int64_t> value = parse_int(text); value.has_value()) {
    return *value >= 0 && *value <= kMaxLayerTokens ? value : std::nullopt;
  }
  const std::optional<double> value = parse_double(text);
  if (!value.has_value() || *value < 0 || *value > static_cast<double>(kMaxLayerTokens) ||
      *value != std::floor(*value)) {
    return std::nullopt;
  }
  return static_cast<int64_t>(*value);
}

std::string shorten(std::string_view text) {
  return std::string(text.substr(0, 40));
}

Status bad_count(const std::string& name, int line, int layer, int64_t expert,
                 std::string_view text) {
  return Status::invalid_input(fmt::format(
      "{}:{}: layer {}, expert {}: \"{}\" is not a count: must be a whole number from 0 "
      "to 2^50",
      name, line, layer, expert, shorten(text)));
}

Status bad_width(const std::string& name, const Line& line, size_t expected) {
  return Status::invalid_input(fmt::format("{}:{}: has {} fields, the first line has {}", name,
                                           line.number, line.fields.size(), expected));
}

// Dialect "matrix": one line a layer, one field an expert.
Result<Load> parse_matrix(LineReader lines, const std::string& name) {
  Load load;
  Line line;
  int layer = 0;
  while (lines.next(line)) {
    if (load.num_experts == 0) load.num_experts = static_cast<int>(line.fields.size());
    if (line.fields.size() != static_cast<size_t>(load.num_experts)) {
      return bad_width(name, line, static_cast<size_t>(load.num_experts));
    }
    for (size_t expert = 0; expert < line.fields.size(); ++expert) {
      const std::optional<int64_t> count = parse_count(line.fields[expert]);
      if (!count.has_value()) {
        return bad_count(name, line.number, layer, static_cast<int64_t>(expert),
                         line.fields[expert]);
      }
      load.tokens.push_back(*count);
    }
    ++layer;
  }
  return finish_load(std::move(load), DenseFront::kDrop, name);
}

// Where the columns of dialect "table" are; -1: there is none.
struct Columns {
  int layer = -1;
  int iteration = -1;
  int dataset = -1;
  int first_expert = -1;  // experts stand side by side, in order
  int num_experts = 0;
  size_t width = 0;
};

Result<Columns> parse_header(const Line& line, const std::string& name) {
  Columns columns{.width = line.fields.size()};
  for (size_t i = 0; i < line.fields.size(); ++i) {
    const std::string_view field = line.fields[i];
    const auto at = static_cast<int>(i);
    int* place = field == "layer_idx" || field == "layer" ? &columns.layer
                 : field == "iteration"                   ? &columns.iteration
                 : field == "dataset"                     ? &columns.dataset
                                                          : nullptr;
    if (place != nullptr) {
      if (*place >= 0) {
        return Status::invalid_input(
            fmt::format("{}:{}: column \"{}\" appears twice", name, line.number, field));
      }
      *place = at;
    } else if (const std::optional<int64_t> expert = parse_int(field); expert.has_value()) {
      if (columns.first_expert < 0) columns.first_expert = at;
      if (*expert != columns.num_experts || at != columns.first_expert + columns.num_experts) {
        return Status::invalid_input(
            fmt::format("{}:{}: expert columns must be 0, 1, 2, ... side by side: found {} for {}",
                        name, line.number, *expert, columns.num_experts));
      }
      ++columns.num_experts;
    } else if (!field.empty() || i > 0) {  // tables saved by pandas start with a nameless index
      return Status::invalid_input(fmt::format(
          "{}:{}: unknown column \"{}\": known are layer_idx, iteration, dataset, and the experts' "
          "numbers",
          name, line.number, shorten(field)));
    }
  }
  if (columns.layer < 0 || columns.num_experts == 0) {
    return Status::invalid_input(
        fmt::format("{}:{}: the header needs the column layer_idx and the experts' numbers from 0",
                    name, line.number));
  }
  return columns;
}

// One row's place: (dataset, iteration) is a step, and every step must have every layer once.
struct RowKey {
  std::string_view dataset;
  int64_t iteration = 0;
  int layer = 0;
};

Result<RowKey> parse_row_key(const Line& line, const Columns& columns, const std::string& name) {
  RowKey key;
  const auto field = [&](int column) { return line.fields[static_cast<size_t>(column)]; };
  if (columns.dataset >= 0) key.dataset = field(columns.dataset);
  const auto number = [&](int column) -> std::optional<int64_t> {
    if (column < 0) return 0;
    const std::optional<int64_t> value = parse_count(field(column));
    return value.has_value() && *value < INT_MAX ? value : std::nullopt;
  };
  const std::optional<int64_t> iteration = number(columns.iteration);
  const std::optional<int64_t> layer = number(columns.layer);
  if (!iteration.has_value() || !layer.has_value()) {
    return Status::invalid_input(fmt::format(
        "{}:{}: layer_idx and iteration must be whole numbers from 0", name, line.number));
  }
  key.iteration = *iteration;
  key.layer = static_cast<int>(*layer);
  return key;
}

using LayerSums = std::map<int, std::vector<int64_t>>;
using Steps = std::map<std::pair<std::string_view, int64_t>, std::set<int>>;

Status check_complete(const Steps& steps, const LayerSums& sums, const std::string& name) {
  for (const auto& [step, layers] : steps) {
    if (layers.size() == sums.size()) continue;
    for (const auto& [layer, unused] : sums) {
      if (layers.contains(layer)) continue;
      return Status::invalid_input(
          fmt::format("{}: iteration {}{}{} has no row of layer {}", name, step.second,
                      step.first.empty() ? "" : " of dataset ", shorten(step.first), layer));
    }
  }
  return Status::ok();
}

// Dialect "table": a header, and a row for each (dataset, iteration, layer).
Result<Load> parse_table(LineReader lines, const std::string& name, std::string_view dataset) {
  Line line;
  lines.next(line);
  ASSIGN_OR_RETURN(const Columns columns, parse_header(line, name));
  if (!dataset.empty() && columns.dataset < 0) {
    return Status::invalid_input(fmt::format("{}: has no column \"dataset\"", name));
  }
  LayerSums sums;
  Steps steps;
  while (lines.next(line)) {
    if (line.fields.size() != columns.width) return bad_width(name, line, columns.width);
    ASSIGN_OR_RETURN(const RowKey key, parse_row_key(line, columns, name));
    if (!dataset.empty() && key.dataset != dataset) continue;
    if (!steps[{key.dataset, key.iteration}].insert(key.layer).second) {
      return Status::invalid_input(fmt::format("{}:{}: a second row of iteration {}, layer {}",
                                               name, line.number, key.iteration, key.layer));
    }
    std::vector<int64_t>& row = sums[key.layer];
    row.resize(static_cast<size_t>(columns.num_experts));
    for (size_t expert = 0; expert < row.size(); ++expert) {
      const auto text = line.fields[static_cast<size_t>(columns.first_expert) + expert];
      const std::optional<int64_t> count = parse_count(text);
      if (!count.has_value() || row[expert] + *count > kMaxLayerTokens) {
        return bad_count(name, line.number, key.layer, static_cast<int64_t>(expert), text);
      }
      row[expert] += *count;
    }
  }
  if (sums.empty()) {
    return Status::invalid_input(fmt::format(
        "{}: no row{}{}", name, dataset.empty() ? "" : " of dataset ", shorten(dataset)));
  }
  RETURN_IF_ERROR(check_complete(steps, sums, name));
  Load load;
  load.num_experts = columns.num_experts;
  for (const auto& [layer, row] : sums) {
    load.layers.push_back(layer);
    load.tokens.insert(load.tokens.end(), row.begin(), row.end());
  }
  return finish_load(std::move(load), DenseFront::kDrop, name);
}

}  // namespace

Result<Load> parse_csv_load(std::string_view text, const std::string& name,
                            std::string_view dataset) {
  LineReader lines(text);
  Line first;
  if (!LineReader(lines).next(first)) {
    return Status::invalid_input(fmt::format("{}: is empty", name));
  }
  const bool header = std::any_of(first.fields.begin(), first.fields.end(), [](auto field) {
    return field == "layer_idx" || field == "layer";
  });
  if (header) return parse_table(lines, name, dataset);
  if (!dataset.empty()) {
    return Status::invalid_input(
        fmt::format("{}: a matrix without header has no data sets to choose from", name));
  }
  return parse_matrix(lines, name);
}

}  // namespace wideep::eplb
