#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace wideep::engine {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) CHECK(!stop.empty());
}

std::string StopMatcher::add(std::string_view text) {
  if (matched_) return "";
  if (stops_.empty()) return std::string(text);
  held_ += text;
  // The stop string that is complete first, the longest of them: then pieces do not matter.
  constexpr auto kNone = std::pair(std::string::npos, std::string::npos);
  auto first = kNone;  // its end and its beginning
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    if (const size_t at = held_.find(stop); at != std::string::npos) {
      first = std::min(first, std::pair(at + stop.size(), at));
    }
    // The longest end of the text that is a beginning of this stop string.
    size_t length = std::min(stop.size() - 1, held_.size());
    while (length > 0 && !held_.ends_with(std::string_view(stop).substr(0, length))) --length;
    keep = std::max(keep, length);
  }
  matched_ = first != kNone;
  const size_t shown = matched_ ? first.second : held_.size() - keep;
  std::string out = held_.substr(0, shown);
  held_.erase(0, matched_ ? std::string::npos : shown);
  return out;
}

std::string StopMatcher::finish() {
  return std::exchange(held_, "");
}

}  // namespace wideep::engine
