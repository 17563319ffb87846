#include "tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

namespace wideep::tokenizer {
namespace {

// What GPT-2 cuts words by; ByteLevel's own pattern where use_regex is on.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Takes the parts of a text in order and joins or drops them as the behaviour says.
class PieceBuilder {
 public:
  PieceBuilder(SplitBehavior behavior, size_t offset, std::vector<Span>& pieces)
      : behavior_(behavior), offset_(offset), first_(pieces.size()), pieces_(pieces) {}

  void add(Span part, bool is_match) {
    const bool joined = joins_last(is_match);
    const bool dropped = behavior_ == SplitBehavior::kRemoved && is_match;
    last_is_match_ = is_match;
    if (joined) {
      pieces_.back().end = offset_ + part.end;
    } else if (part.size() > 0 && !dropped) {
      pieces_.push_back({offset_ + part.begin, offset_ + part.end});
    }
  }

 private:
  // A match joins the part before it, unless that is a match too; and so on.
  bool joins_last(bool is_match) const {
    if (pieces_.size() == first_) return false;
    switch (behavior_) {
      case SplitBehavior::kMergedWithPrevious:
        return is_match && !last_is_match_;
      case SplitBehavior::kMergedWithNext:
        return !is_match && last_is_match_;
      case SplitBehavior::kContiguous:
        return is_match == last_is_match_;
      default:
        return false;
    }
  }

  SplitBehavior behavior_;
  size_t offset_;
  size_t first_;
  bool last_is_match_ = false;
  std::vector<Span>& pieces_;
};

}  // namespace

void split_at_matches(size_t size, const std::vector<Span>& matches, SplitBehavior behavior,
                      bool invert, size_t offset, std::vector<Span>& pieces) {
  PieceBuilder builder(behavior, offset, pieces);
  size_t end = 0;
  for (const Span& match : matches) {
    if (end < match.begin) builder.add({end, match.begin}, invert);
    builder.add(match, !invert);
    end = match.end;
  }
  if (end < size) builder.add({end, size}, invert);
}

Result<PreTokenizer> PreTokenizer::create(const PreTokenizerSpec& spec, const std::string& name) {
  PreTokenizer result;
  for (const SplitSpec& split : spec.splits) {
    Result<SplitRegex> regex =
        split.is_regex ? SplitRegex::compile(split.pattern) : SplitRegex::literal(split.pattern);
    std::string place = fmt::format("{}: {}", name, split.path);
    if (!regex.is_ok()) {
      return Status::invalid_input(fmt::format("{}: {}", place, regex.status().message()));
    }
    result.steps_.push_back(
        {std::move(regex).value(), split.behavior, split.invert, std::move(place)});
  }
  result.add_prefix_space_ = spec.add_prefix_space;
  if (spec.use_regex) {
    ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::compile(kGpt2Pattern));
    Step step{std::move(regex), SplitBehavior::kIsolated, false, name + ": ByteLevel"};
    if (spec.add_prefix_space) {
      result.behind_prefix_ = std::move(step);
    } else {
      result.steps_.push_back(std::move(step));
    }
  }
  return result;
}

Status PreTokenizer::split_text(std::string_view text, Scratch& scratch) const {
  scratch.pieces.clear();
  if (!text.empty()) scratch.pieces.push_back({0, text.size()});
  for (const Step& step : steps_) RETURN_IF_ERROR(apply(step, text, scratch));
  return Status::ok();
}

Status PreTokenizer::prefix_and_split(std::string_view piece, Scratch& scratch) const {
  scratch.prefixed.clear();
  if (!piece.starts_with(' ')) scratch.prefixed += ' ';
  scratch.prefixed += piece;
  scratch.pieces = {{0, scratch.prefixed.size()}};
  return behind_prefix_ ? apply(*behind_prefix_, scratch.prefixed, scratch) : Status::ok();
}

Status PreTokenizer::apply(const Step& step, std::string_view text, Scratch& scratch) {
  scratch.next.clear();
  for (const Span& piece : scratch.pieces) {
    scratch.matches.clear();
    // Each piece is a text of its own: lookaround does not see its neighbours.
    const Status status =
        step.regex.find_all(text.substr(piece.begin, piece.size()), scratch.match, scratch.matches);
    if (!status.is_ok()) {
      return Status::invalid_input(fmt::format("{}: {}", step.place, status.message()));
    }
    split_at_matches(piece.size(), scratch.matches, step.behavior, step.invert, piece.begin,
                     scratch.next);
  }
  std::swap(scratch.pieces, scratch.next);
  return Status::ok();
}

}  // namespace wideep::tokenizer
