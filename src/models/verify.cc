#include "models/verify.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "config/limits.h"
#include "config/schema.h"
#include "models/tensor_list.h"

namespace wideep::models {
namespace {

constexpr int kLinesOfAKind = 20;
// Names compared for a hint: enough for any real mistake, few enough for the wrong folder.
constexpr size_t kMaxCandidates = 1000;

std::string shown(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// NAME with its expert's number cut out: "...experts." | 17 | ".up_proj.weight".
struct ExpertName {
  std::string_view before;
  int expert = 0;
  std::string_view after;
};

std::optional<ExpertName> expert_name(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  if (at == std::string_view::npos) return std::nullopt;
  const size_t begin = at + kExperts.size();
  const size_t end = std::min(name.find('.', begin), name.size());
  const auto number = parse_int(name.substr(begin, end - begin));
  if (!number || *number < 0 || *number > kMaxExperts) return std::nullopt;
  return ExpertName{name.substr(0, begin), static_cast<int>(*number), name.substr(end)};
}

// "{3..17,20}", or "3" for one.
std::string ranges(const std::set<int>& numbers) {
  std::vector<std::string> parts;
  for (auto at = numbers.begin(); at != numbers.end();) {
    const int first = *at;
    int last = first;
    for (++at; at != numbers.end() && *at == last + 1; ++at) last = *at;
    parts.push_back(first == last ? fmt::to_string(first) : fmt::format("{}..{}", first, last));
  }
  if (numbers.size() == 1) return parts.front();
  return fmt::format("{{{}}}", fmt::join(parts, ","));
}

// The problems of one kind, alike ones of one layer's experts together.
class Problems {
 public:
  void add(const std::string& name, const std::string& problem) {
    ++count_;
    const auto expert = expert_name(name);
    const std::string key = expert
                                ? fmt::format("{}*{}: {}", expert->before, expert->after, problem)
                                : fmt::format("{}: {}", name, problem);
    const auto [at, is_new] = groups_.emplace(key, static_cast<int>(lines_.size()));
    if (is_new) lines_.push_back({name, problem, {}});
    if (expert) lines_[at->second].experts.insert(expert->expert);
  }

  int count() const { return count_; }

  // Appends the lines; `hint` gives what follows the first name of a line.
  template <typename Hint>
  void append_to(Violations& violations, const std::string& folder, const char* kind,
                 const Hint& hint) const {
    int lines = 0;
    int told = 0;
    for (const Line& line : lines_) {
      if (lines++ == kLinesOfAKind) break;
      told += line.experts.empty() ? 1 : static_cast<int>(line.experts.size());
      std::string name = line.name;
      if (const auto expert = expert_name(line.name)) {
        name = fmt::format("{}{}{}", expert->before, ranges(line.experts), expert->after);
      }
      violations.add(fmt::format("{}: {}: {}{}", folder, name, line.problem, hint(line.name)));
    }
    if (told < count_) {
      violations.add(fmt::format("{}: and {} more tensors {}", folder, count_ - told, kind));
    }
  }

 private:
  struct Line {
    std::string name;  // the first that had the problem
    std::string problem;
    std::set<int> experts;
  };
  std::map<std::string, int> groups_;  // -> index of its line
  std::vector<Line> lines_;
  int count_ = 0;
};

class Verification {
 public:
  Verification(const Checkpoint& checkpoint, const ModelConfig& model)
      : checkpoint_(checkpoint), model_(model) {}

  Status run() {
    std::set<std::string, std::less<>> known;
    for (const TensorSpec& spec : tensor_list(model_)) {
      check(spec, known);
      known.insert(spec.name);
    }
    for (const Checkpoint::Tensor& tensor : checkpoint_.tensors()) {
      const std::string& name = tensor.entry->name;
      if (known.contains(name) || is_harmless_extra(name, model_)) continue;
      extra_.add(name, "is no tensor of the model that config.json describes");
      std::vector<std::string>& alike = extra_names_[tensor.entry->shape];
      if (alike.size() < kMaxCandidates) alike.push_back(name);
    }
    return status();
  }

 private:
  void check(const TensorSpec& spec, std::set<std::string, std::less<>>& known) {
    const Checkpoint::Tensor* tensor = checkpoint_.find(spec.name);
    if (tensor == nullptr) {
      if (!spec.is_optional) add_missing(spec.name, spec.shape);
      return;
    }
    const TensorEntry& entry = *tensor->entry;
    if (entry.shape != spec.shape) {
      shape_.add(spec.name,
                 fmt::format("is {}, must be {}", shown(entry.shape), shown(spec.shape)));
    }
    switch (entry.dtype) {
      case DType::kF32:
      case DType::kBF16:
      case DType::kF16:
        return;
      case DType::kF8E4M3:
        if (spec.may_be_fp8 && model_.fp8_block) return check_scales(spec, known);
        dtype_.add(spec.name, spec.may_be_fp8
                                  ? "is F8_E4M3, and config.json has no quantization_config"
                                  : "is F8_E4M3, must be F32, BF16 or F16");
        known.insert(spec.name + std::string(kScaleSuffix));
        return;
      default:
        dtype_.add(spec.name,
                   fmt::format("is {}, must be {}", dtype_name(entry.dtype),
                               spec.may_be_fp8 && model_.fp8_block ? "F32, BF16, F16 or F8_E4M3"
                                                                   : "F32, BF16 or F16"));
    }
  }

  void add_missing(const std::string& name, const std::vector<int64_t>& shape) {
    missing_.add(name, "missing: must be " + shown(shape));
    missing_shapes_.emplace(name, shape);
  }

  void check_scales(const TensorSpec& spec, std::set<std::string, std::less<>>& known) {
    const std::string name = spec.name + std::string(kScaleSuffix);
    known.insert(name);
    const auto blocks = [](int64_t size, int block) { return (size + block - 1) / block; };
    const std::vector<int64_t> shape = {blocks(spec.shape[0], model_.fp8_block->rows),
                                        blocks(spec.shape[1], model_.fp8_block->columns)};
    const Checkpoint::Tensor* scales = checkpoint_.find(name);
    if (scales == nullptr) return add_missing(name, shape);
    const TensorEntry& entry = *scales->entry;
    if (entry.shape != shape) {
      shape_.add(name, fmt::format("is {}, must be {}", shown(entry.shape), shown(shape)));
    }
    if (entry.dtype != DType::kF32 && entry.dtype != DType::kBF16) {
      dtype_.add(name, fmt::format("is {}, must be F32 or BF16", dtype_name(entry.dtype)));
    }
  }

  Status status() const {
    Violations violations;
    const auto no_hint = [](const std::string&) { return std::string(); };
    // A tensor under another name has its shape all the same.
    const auto nearest_extra = [&](const std::string& name) {
      const auto alike = extra_names_.find(missing_shapes_.at(name));
      if (alike == extra_names_.end()) return std::string();
      const std::vector<std::string_view> candidates(alike->second.begin(), alike->second.end());
      return did_you_mean(nearest_word(name, candidates));
    };
    const std::string& folder = checkpoint_.folder();
    missing_.append_to(violations, folder, "missing", nearest_extra);
    shape_.append_to(violations, folder, "of another shape", no_hint);
    dtype_.append_to(violations, folder, "of another dtype", no_hint);
    extra_.append_to(violations, folder, "too much", no_hint);
    if (violations.empty()) return Status::ok();
    return violations.status();
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& model_;
  Problems missing_;
  Problems shape_;
  Problems dtype_;
  Problems extra_;
  std::map<std::string, std::vector<int64_t>> missing_shapes_;
  std::map<std::vector<int64_t>, std::vector<std::string>> extra_names_;  // by shape
};

}  // namespace

Status verify(const Checkpoint& checkpoint, const ModelConfig& model) {
  return Verification(checkpoint, model).run();
}

}  // namespace wideep::models
